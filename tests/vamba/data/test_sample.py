"""The sample contract: members there and back, and what it refuses."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vamba.data.sample import Conversation, Sample, Turn, check_id

DIGEST = "sha256:" + "0" * 64


def make_sample(**changes: object) -> Sample:
    conversation = Conversation(
        id="q-1",
        turns=(Turn(speaker="human", value="<video>\nWhat is shown? ü"), Turn(speaker="gpt", value="B")),
        category="needle",
    )
    values: dict[str, object] = dict(
        id="clip-1",
        media="video",
        split="train",
        source_uri="/data/clip 1.mp4",
        source_digest=DIGEST,
        duration_ns=2_000_000_000,
        width=320,
        height=180,
        timestamps_ns=(0, 1_000_000_000),
        conversations=(conversation,),
        probe={"codec": "h264", "fps": "30000/1001"},
        frames=(b"one", b"two"),
    )
    return Sample(**{**values, **changes})  # type: ignore[arg-type]


def test_members_are_json_then_frames_in_order() -> None:
    names = [name for name, _ in make_sample().to_members()]
    assert names == ["clip-1.json", "clip-1.000000.jpg", "clip-1.000001.jpg"]


def test_members_round_trip_in_any_order() -> None:
    sample = make_sample()
    assert Sample.from_members(reversed(sample.to_members())) == sample


def test_json_member_holds_the_public_fields() -> None:
    document = json.loads(make_sample().to_members()[0][1])
    assert {"id", "source_uri", "source_digest", "duration_ns", "width", "height", "timestamps_ns"} <= set(document)
    assert document["conversations"][0]["conversations"][0] == {"from": "human", "value": "<video>\nWhat is shown? ü"}


def test_equal_samples_give_equal_bytes_whatever_the_order_of_probe_keys() -> None:
    one = make_sample(probe={"a": 1, "b": 2})
    two = make_sample(probe={"b": 2, "a": 1})
    assert one.to_members() == two.to_members()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "a.b"}, "sample id"),
        ({"id": "x" * 81}, "sample id"),
        ({"timestamps_ns": (0,)}, "one timestamp"),
        ({"timestamps_ns": (), "frames": ()}, "at least one frame"),
        ({"timestamps_ns": (5, 5)}, "strictly increasing"),
        ({"timestamps_ns": (-1, 5)}, "strictly increasing"),
        ({"split": "dev"}, "split"),
        ({"media": "audio"}, "media"),
        ({"source_digest": "md5:0"}, "source_digest"),
    ],
)
def test_refuses_what_breaks_the_contract(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_sample(**changes)


def test_from_members_names_a_missing_frame() -> None:
    with pytest.raises(ValueError, match=r"clip-1\.000001\.jpg"):
        Sample.from_members(make_sample().to_members()[:-1])


def test_from_members_refuses_two_samples() -> None:
    other = dataclasses.replace(make_sample(), id="clip-2")
    with pytest.raises(ValueError, match="one .json"):
        Sample.from_members(make_sample().to_members() + other.to_members())


def test_listing_rows_are_checked() -> None:
    with pytest.raises(ValueError, match="human"):
        Conversation.from_json({"conversations": [{"from": "user", "value": "x"}]})
    with pytest.raises(ValueError, match="list"):
        Conversation.from_json({"id": "a"})


@given(st.text())
def test_check_id_accepts_only_the_alphabet(text: str) -> None:
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789_-")
    if text and set(text) <= allowed and len(text) <= 80:
        assert check_id(text) == text
    else:
        with pytest.raises(ValueError):
            check_id(text)
