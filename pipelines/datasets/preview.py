"""A contact sheet of a dataset: one HTML file with frames, times and conversations of some of its samples.

manifest ── seed or ids ──> rows ── range reads ──> frames ── thumbnails ──> cards ──> preview.html.jinja ──> text.
The page needs no script and no request. Its size is bounded: the numbers of samples and frames have limits, thumbnails
fit a square, and long conversations are cut with a note. A sample that can't be read is a card that says so.
"""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.datasets.frame_access import UNREADABLE, FrameAccess, Picture
from pipelines.manifest_io import read_manifest
from pipelines.storage import open_storage
from vamba.data.manifest import Manifest, SampleRow
from vamba.data.sample import Conversation

MOST_SAMPLES, MOST_FRAMES = 500, 64
_THUMB_SIDE = 240
_JPEG_QUALITY = 72
_MOST_CONVERSATIONS = 20
_MOST_TURNS = 20
_MOST_TEXT_CHARS = 2000
_TEMPLATE = "preview.html.jinja"


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    """A frame as a data URI. time: "0:42:07.5", from the start of the video."""

    data_uri: str
    time: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A conversation as it is shown: (speaker, text) pairs, cut where they are long."""

    heading: str
    turns: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One sample of the page. error: why it can't be shown; then there is nothing else."""

    row: SampleRow
    duration: str
    thumbnails: tuple[Thumbnail, ...] = ()
    exchanges: tuple[Exchange, ...] = ()
    num_left_out: int = 0  # conversations
    error: str = ""


def preview(
    data: str,
    *,
    num_samples: int = 24,
    num_frames: int = 8,
    ids: Sequence[str] = (),
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """The page as text. `ids` names the samples, in order; otherwise `seed` draws `num_samples`.

    Raises:
        FileNotFoundError: there is no finished dataset.
        ValueError: an id is not in the dataset, or a number is outside its limits.
    """
    import jinja2

    _check_number("--samples", len(ids) or num_samples, MOST_SAMPLES)
    _check_number("--frames", num_frames, MOST_FRAMES)
    storage, manifest = open_storage(data), read_manifest(data)
    rows = _named(manifest, ids) if ids else _drawn(manifest, num_samples, seed)
    access, cards = FrameAccess(storage), []
    for row in rows:
        cards.append(_card(access, row, num_frames))
        if progress is not None:
            progress(len(cards), len(rows))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(_TEMPLATE).render(
        uri=storage.uri,
        digest=manifest.digest,
        num_samples=len(manifest.samples),
        duration=clock(sum(row.duration_ns for row in manifest.samples)),
        choice="named by id" if ids else f"drawn with seed {seed}",
        cards=cards,
    )


def clock(duration_ns: int) -> str:
    """2_527_350_000_000 → "0:42:07.3"; the rest of a tenth is dropped."""
    tenths = duration_ns // 100_000_000
    seconds = tenths // 10
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{tenths % 10}"


def spread(count: int, num_frames: int) -> list[int]:
    """The middle frames of `count` equal spans of a video of `num_frames` frames; all frames if there are fewer."""
    count = min(count, num_frames)
    return [(2 * index + 1) * num_frames // (2 * count) for index in range(count)]


def _check_number(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise ValueError(
            f"{name} is {value}; it must be 1 to {most}, or the page grows beyond what a browser opens well"
        )


def _named(manifest: Manifest, ids: Sequence[str]) -> list[SampleRow]:
    by_id = {row.id: row for row in manifest.samples}
    unknown = [name for name in ids if name not in by_id]
    if unknown:
        raise ValueError(f"--ids: the dataset has no sample {unknown[0]!r}; ids are made from the paths of the sources")
    return [by_id[name] for name in dict.fromkeys(ids)]


def _drawn(manifest: Manifest, count: int, seed: int) -> list[SampleRow]:
    rows = manifest.samples
    chosen = random.Random(seed).sample(range(len(rows)), min(count, len(rows)))
    return [rows[index] for index in sorted(chosen)]


def _card(access: FrameAccess, row: SampleRow, num_frames: int) -> Card:
    indices = spread(num_frames, row.num_frames)
    duration = clock(row.duration_ns)
    try:
        document, frames = access.read_frames(row, indices)
        times = [document["timestamps_ns"][index] for index in indices]
        conversations = [Conversation.from_json(item) for item in document["conversations"]]
        thumbnails = tuple(
            Thumbnail(data_uri=_thumbnail(frame), time=clock(time)) for frame, time in zip(frames, times, strict=True)
        )
    except UNREADABLE as error:
        return Card(row=row, duration=duration, error=f"{type(error).__name__}: {error}")
    return Card(
        row=row,
        duration=duration,
        thumbnails=thumbnails,
        exchanges=tuple(_exchange(conversation) for conversation in conversations[:_MOST_CONVERSATIONS]),
        num_left_out=max(0, len(conversations) - _MOST_CONVERSATIONS),
    )


def _exchange(conversation: Conversation) -> Exchange:
    turns: list[tuple[str, str]] = [(turn.speaker, _cut(turn.value)) for turn in conversation.turns[:_MOST_TURNS]]
    if len(conversation.turns) > _MOST_TURNS:
        turns.append(("", f"… and {len(conversation.turns) - _MOST_TURNS} more turns"))
    heading = " · ".join(filter(None, [_cut(conversation.id, 200), _cut(conversation.category, 200)]))
    return Exchange(heading=heading, turns=tuple(turns))


def _cut(text: str, most: int = _MOST_TEXT_CHARS) -> str:
    return text if len(text) <= most else f"{text[:most]} … (and {len(text) - most} more characters)"


def _thumbnail(picture: Picture) -> str:
    from PIL import Image

    if isinstance(picture, bytes):
        with Image.open(io.BytesIO(picture), formats=("JPEG",)) as image:
            small = image.convert("RGB")
    else:
        small = Image.fromarray(picture)
    small.thumbnail((_THUMB_SIDE, _THUMB_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
