"""`vamba data` as a user meets it: tables, JSON, exit codes, mistakes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.cli.main import app
from tests.architecture.sources import ROOT
from tests.pipelines.datasets.pictures import film, jpegs, sample_of, talk
from tests.pipelines.evaluation.needle_data import write_dataset
from vamba.data.manifest import Failure

VERBS = ("ls", "stats", "verify", "preview", "duplicates")


def vamba(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    samples = [
        sample_of("clip-0", jpegs(film(0)), conversations=[talk("<video>\nWhat?")]),
        sample_of("clip-1", jpegs(film(0)), digest_of="clip-0", split="test"),
        sample_of("clip-2", jpegs(film(0), quality=30), split="validation"),
        sample_of("clip-3", jpegs(film(7))),
    ]
    failures = [
        Failure(stage="probe", id=f"bad-{n}", source_uri=f"/bad-{n}.mp4", error_class=kind, message="it is cut")
        for n, kind in enumerate(("truncated", "truncated", "empty"))
    ]
    write_dataset(tmp_path / "data", samples, failures)
    return tmp_path / "data"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    output = vamba("data", verb, "--help").output
    assert f"vamba data {verb}" in output and "Example:" in output
    assert ("--json" in output) == (verb != "preview")


def test_verify_of_a_whole_dataset_ends_with_0(data: Path) -> None:
    result = vamba("data", "verify", data, "--decode", "--jobs", 1)
    assert result.exit_code == 0, result.output
    assert "4 samples with 64 frames in 1 shard," in result.stdout and "every frame decoded" in result.stdout
    assert "verified 1 of 1 shards" in result.stderr
    found = json.loads(vamba("data", "verify", data, "--json").stdout)
    assert found["clean"] and found["findings"] == [] and not found["decoded"]


def test_verify_of_a_changed_byte_ends_with_1_and_a_table(data: Path) -> None:
    path = data / "shards" / "shard-000000.tar"
    content = bytearray(path.read_bytes())
    content[content.index(b"clip-1.000003.jpg")] ^= 1
    path.write_bytes(content)
    result = vamba("data", "verify", data)
    assert result.exit_code == 1
    line = next(line for line in result.stdout.splitlines() if "clip-1" in line)
    assert "shard-000000.tar" in line and " tar " in line and "sha256" in result.stdout
    result = vamba("data", "verify", data, "--json")
    assert result.exit_code == 1
    assert {finding["rule"] for finding in json.loads(result.stdout)["findings"]} == {"tar", "sha256"}


def test_every_rule_is_documented() -> None:
    sources = [ROOT / "pipelines" / "datasets" / name for name in ("verify.py", "verify_shard.py", "verify_sample.py")]
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    documented = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    rules = set(re.findall(r'(?:report|Broken)\("([a-z0-9]+)"', text))
    rules |= set(re.findall(r'_finding\([^,]+, "([a-z0-9]+)"', text))
    assert len(rules) > 12
    assert [rule for rule in sorted(rules) if f"`{rule}`" not in documented] == []


def test_stats_for_people_and_programs(data: Path, tmp_path: Path) -> None:
    result = vamba("data", "stats", data, "--plot", tmp_path / "stats.png")
    assert result.exit_code == 0, result.output
    assert "median" in result.stdout and "video tokens" in result.stdout and "truncated" in result.stdout
    assert (tmp_path / "stats.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads(vamba("data", "stats", data, "--json").stdout)
    assert found["failures_by_class"] == {"truncated": 2, "empty": 1}
    assert found["num_frames"] == 64 and found["splits"]["train"]["num_video_tokens"] * 2 == found["num_video_tokens"]
    assert found["percentiles"]["duration_s"]["50"] == 16 and found["processing"]["patch_size"] == 14


def test_stats_count_tokens_at_a_models_resolution(data: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "processing.json").write_text('{"longest_edge": 56, "shortest_edge": 28}')
    default, small = (
        json.loads(vamba("data", "stats", data, "--json", *words).stdout)["num_video_tokens"]
        for words in ((), ("--model", model))
    )
    assert 0 < small < default


def test_preview_writes_one_file(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "pages" / "preview.html"
    result = vamba("data", "preview", data, "--out", out, "--samples", 2, "--frames", 3)
    assert result.exit_code == 0 and result.stdout.strip() == str(out), result.output
    text = out.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>") and text.count("<article") == 2 and text.count("<img") == 6
    vamba("data", "preview", data, "--out", out, "--ids", "clip-3,clip-0")
    assert out.read_text(encoding="utf-8").count("<article") == 2


def test_duplicates_for_people_and_programs(data: Path) -> None:
    result = vamba("data", "duplicates", data)
    assert result.exit_code == 0 and "1 group of equal files among 4 samples" in result.stdout, result.output
    assert "clip-1" in result.stdout and "clip-2" not in result.stdout and "several splits" in result.stdout
    found = json.loads(vamba("data", "duplicates", data, "--near", "--json", "--jobs", 1).stdout)
    assert [[item["id"] for item in group["samples"]] for group in found["near"]["groups"]] == [["clip-0", "clip-2"]]
    assert "1 group of near duplicates among 3 different videos" in vamba("data", "duplicates", data, "--near").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("verify", "/nowhere"), "no dataset at /nowhere"),
        (("duplicates", "/nowhere"), "no dataset at /nowhere"),
        (("verify", "{data}", "--jobs", "-2"), "--jobs is -2"),
        (("preview", "{data}", "--ids", "nobody"), "no sample 'nobody'"),
        (("preview", "{data}", "--samples", "9999"), "--samples is 9999"),
        (("stats", "{data}", "--plot", "stats.txt"), "must end in one of"),
        (("stats", "{data}", "--model", "/nowhere"), "is not a model directory"),
    ],
)
def test_mistakes_end_with_2_and_a_paragraph(data: Path, words: tuple[str, ...], message: str) -> None:
    result = vamba("data", *(word.format(data=data) for word in words))
    assert result.exit_code == 2 and message in result.stderr and "Traceback" not in result.output


def test_ls_lists_the_samples_that_fit(data: Path) -> None:
    def listed(*words: object) -> list[str]:
        result = vamba("data", "ls", data, "--json", *words)
        assert result.exit_code == 0, result.output
        return [json.loads(line)["id"] for line in result.stdout.splitlines()]

    assert listed() == ["clip-0", "clip-1", "clip-2", "clip-3"]
    assert listed("--split", "train") == ["clip-0", "clip-3"] and listed("--split", "train", "--limit", 1) == ["clip-0"]
    assert listed("--match", "*-2") == ["clip-2"] == listed("--match", "/videos/*2.mp4")
    assert listed("--shard", "shard-000001*") == [] == listed("--media", "image")
    assert listed("--min-seconds", 16) == listed() and listed("--max-seconds", 16) == []
    table = vamba("data", "ls", data, "--limit", 3).stdout
    assert "clip-2" in table and "clip-3" not in table and "… and 1 more samples" in table
    assert "No sample" in vamba("data", "ls", data, "--media", "image").stdout


def test_ls_of_a_folder_lists_its_datasets(data: Path) -> None:
    assert [item["uri"] for item in json.loads(vamba("data", "ls", data.parent, "--json").stdout)] == [str(data)]
    assert str(data) in vamba("data", "ls", data.parent).stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("{data}", "--split", "dev"), "--split is 'dev'"),
        (("{data}", "--media", "sound"), "--media is 'sound'"),
        (("{data}", "--limit", "0"), "--limit is 0"),
        (("{data}", "--min-seconds", "5", "--max-seconds", "5"), "leave nothing"),
        (("{data}/shards", "--split", "train"), "is not a dataset"),
        (("/nowhere",), "not a folder, nor a dataset"),
    ],
)
def test_ls_refuses_what_makes_no_sense(data: Path, words: tuple[str, ...], message: str) -> None:
    result = vamba("data", "ls", *(word.format(data=data) for word in words))
    assert result.exit_code == 2 and message in result.stderr, result.output
