"""One training example and its exact form as members of a WebDataset tar.

A sample is one video (or image): its stored frames in presentation order, as JPEG files or as one H.264 stream, the
exact presentation time of each, and the conversations about it. `to_members` turns it into named byte strings
(`<id>.json`, then `<id>.000000.jpg`, … or `<id>.mp4`), `from_members` turns those back; both are pure, so the same
sample always gives the same bytes. The members are a public contract, described in docs/shard-format.md. Standard
library only: decode workers import this file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

Media = Literal["video", "image"]
Split = Literal["train", "validation", "test"]
Store = Literal["jpeg", "h264"]
Speaker = Literal["human", "gpt"]

SPLITS: tuple[str, ...] = get_args(Split)
MAX_ID_CHARS = 80

_ID = re.compile(r"[a-z0-9_-]+")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def check_id(value: str) -> str:
    """Returns `value`, a sample id.

    Raises:
        ValueError: it is not `[a-z0-9_-]+` of at most 80 characters. WebDataset cuts a key at its first dot, and the
            name field of a tar header holds 100 bytes.
    """
    if not _ID.fullmatch(value) or len(value) > MAX_ID_CHARS:
        raise ValueError(
            f"sample id {value!r} must be 1 to {MAX_ID_CHARS} characters of a-z, 0-9, '_' and '-'; rename it"
        )
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One utterance of a conversation."""

    speaker: Speaker  # "human" asks, "gpt" answers (LLaVA's words)
    value: str  # the text; "<video>" or "<image>" marks where the media goes

    def __post_init__(self) -> None:
        if self.speaker not in get_args(Speaker):
            raise ValueError(f"turn 'from' is {self.speaker!r}; it must be 'human' or 'gpt'")
        if not isinstance(self.value, str):
            raise ValueError(f"turn 'value' is {type(self.value).__name__}; it must be text")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A question and answer exchange about one video or image, in LLaVA's form."""

    id: str  # names the conversation in results; any text
    turns: tuple[Turn, ...]  # in order
    category: str = ""  # free label that evaluation groups by
    groups: Mapping[str, str] = field(default_factory=dict)  # more such labels: of each grouping, by its name

    def to_json(self) -> dict[str, Any]:
        """The conversation as the JSON object that a sample stores."""
        turns = [{"from": turn.speaker, "value": turn.value} for turn in self.turns]
        groups = {"groups": dict(self.groups)} if self.groups else {}
        return {"id": self.id, "category": self.category, **groups, "conversations": turns}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Conversation:
        """Reads a stored conversation, or a row of a LLaVA listing (other keys are ignored).

        Raises:
            ValueError: "conversations" is missing or no list of {"from", "value"}, or "groups" no object of labels.
        """
        groups = row.get("groups") or {}
        if not isinstance(groups, Mapping) or not all(isinstance(name, str) and name for name in groups.values()):
            raise ValueError('"groups" must be an object of labels: {"grouping": "label"}')
        rows = row.get("conversations")
        if not isinstance(rows, list) or not all(isinstance(turn, Mapping) for turn in rows):
            raise ValueError('"conversations" must be a list of {"from": "human" or "gpt", "value": text}')
        turns = tuple(Turn(speaker=turn.get("from", ""), value=turn.get("value", "")) for turn in rows)
        return cls(id=str(row.get("id", "")), turns=turns, category=str(row.get("category", "")), groups=dict(groups))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One training example, complete when built.

    Raises:
        ValueError: the id is malformed, a timestamp is negative or not later than the one before it, the numbers of
            frames and timestamps differ, or the frames are stored both ways or not at all.
    """

    id: str  # [a-z0-9_-]+, unique in the dataset
    media: Media
    split: Split
    source_uri: str  # where the source file was when it was ingested
    source_digest: str  # "sha256:<64 hex digits>" of the source file's bytes
    duration_ns: int  # from the first frame's presentation to the end of the last frame of the source
    width: int  # of the stored frames, pixels
    height: int  # of the stored frames, pixels
    timestamps_ns: tuple[int, ...]  # presentation of each stored frame, from the first frame of the source's
    conversations: tuple[Conversation, ...]
    probe: Mapping[str, Any] = field(default_factory=dict)  # what the source was: codec, rotation, fps, audio …
    frames: tuple[bytes, ...] = ()  # JPEG files, in presentation order; none where `video` holds them
    video: bytes = b""  # all frames as H.264 in an MP4; see `vamba.data.h264`

    def __post_init__(self) -> None:
        check_id(self.id)
        if self.media not in get_args(Media):
            raise ValueError(f"sample {self.id}: media is {self.media!r}; it must be one of {get_args(Media)}")
        if self.split not in SPLITS:
            raise ValueError(f"sample {self.id}: split is {self.split!r}; it must be one of {SPLITS}")
        if not _DIGEST.fullmatch(self.source_digest):
            raise ValueError(f"sample {self.id}: source_digest {self.source_digest!r} is not 'sha256:<64 hex digits>'")
        times = self.timestamps_ns
        if self.video and self.frames:
            raise ValueError(f"sample {self.id} has JPEG files and an H.264 stream; its frames are stored one way")
        if not times or (not self.video and len(times) != len(self.frames)):
            raise ValueError(
                f"sample {self.id}: {len(self.frames)} frames and {len(times)} timestamps; there must be one timestamp "
                "per frame, and at least one frame"
            )
        if times[0] < 0 or any(later <= earlier for earlier, later in zip(times, times[1:], strict=False)):
            raise ValueError(f"sample {self.id}: timestamps_ns must be >= 0 and strictly increasing")

    @property
    def store(self) -> Store:
        """How the frames are stored."""
        return "h264" if self.video else "jpeg"

    @property
    def num_frames(self) -> int:
        """Stored frames."""
        return len(self.timestamps_ns)

    def to_members(self) -> list[tuple[str, bytes]]:
        """The tar members `(name, bytes)`: `<id>.json` first, then `<id>.000000.jpg`, …, or `<id>.mp4`."""
        header = sample_header(
            id=self.id,
            media=self.media,
            split=self.split,
            source_uri=self.source_uri,
            source_digest=self.source_digest,
            duration_ns=self.duration_ns,
            width=self.width,
            height=self.height,
            timestamps_ns=self.timestamps_ns,
            conversations=self.conversations,
            probe=self.probe,
            store=self.store,
        )
        contents = [self.video] if self.video else self.frames
        names = member_names(self.id, self.store, self.num_frames)
        return list(zip(names, [header, *contents], strict=True))

    @classmethod
    def from_members(cls, members: Iterable[tuple[str, bytes]]) -> Sample:
        """Builds the sample from its members, in any order.

        Raises:
            ValueError: the JSON member or a frame is missing, or a member belongs to another sample.
        """
        by_name = dict(members)
        json_names = [name for name in by_name if name.endswith(".json")]
        if len(json_names) != 1:
            raise ValueError(f"a sample has one .json member; these have {len(json_names)}: {sorted(by_name)[:4]}")
        document = json.loads(by_name.pop(json_names[0]))
        store = store_of(document)
        json_name, *names = member_names(document["id"], store, len(document["timestamps_ns"]))
        if json_names[0] != json_name or set(names) != set(by_name):
            unexpected = sorted(set(names) ^ set(by_name))[:4]
            raise ValueError(f"sample {document['id']}: members do not match its JSON: {unexpected}")
        contents = tuple(by_name[name] for name in names)
        return cls(
            id=document["id"],
            media=document["media"],
            split=document["split"],
            source_uri=document["source_uri"],
            source_digest=document["source_digest"],
            duration_ns=document["duration_ns"],
            width=document["width"],
            height=document["height"],
            timestamps_ns=tuple(document["timestamps_ns"]),
            conversations=tuple(Conversation.from_json(row) for row in document["conversations"]),
            probe=cast(Mapping[str, Any], document["probe"]),
            frames=contents if store == "jpeg" else (),
            video=contents[0] if store == "h264" else b"",
        )


def frame_name(sample_id: str, index: int) -> str:
    """Name of the member that holds frame `index` (0-based) of a sample."""
    return f"{sample_id}.{index:06d}.jpg"


def video_name(sample_id: str) -> str:
    """Name of the member that holds all frames of a sample as H.264."""
    return f"{sample_id}.mp4"


def member_names(sample_id: str, store: Store, num_frames: int) -> list[str]:
    """All members of a sample, in their order."""
    if store == "h264":
        return [f"{sample_id}.json", video_name(sample_id)]
    return [f"{sample_id}.json", *(frame_name(sample_id, index) for index in range(num_frames))]


def store_of(document: Mapping[str, Any]) -> Store:
    """How the frames of the sample with this JSON are stored.

    Raises:
        ValueError: in a way that this program does not know.
    """
    store = document.get("store", "jpeg")  # datasets from before there was a choice
    if store not in get_args(Store):
        raise ValueError(f'"store" is {store!r}; this program reads {" and ".join(get_args(Store))}: use a newer one')
    return cast(Store, store)


def sample_header(
    *,
    id: str,
    media: str,
    split: str,
    source_uri: str,
    source_digest: str,
    duration_ns: int,
    width: int,
    height: int,
    timestamps_ns: Iterable[int],
    conversations: Iterable[Conversation],
    probe: Mapping[str, Any],
    store: Store = "jpeg",
) -> bytes:
    """The JSON member of a sample, whose frames need not be in memory.

    UTF-8, keys in a fixed order, no spaces, so that equal samples give equal bytes.
    """
    document = {
        "id": check_id(id),
        "media": media,
        "split": split,
        "source_uri": source_uri,
        "source_digest": source_digest,
        "duration_ns": duration_ns,
        "width": width,
        "height": height,
        "store": store,
        "timestamps_ns": list(timestamps_ns),
        "conversations": [conversation.to_json() for conversation in conversations],
        "probe": dict(sorted(probe.items())),
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
