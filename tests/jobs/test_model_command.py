"""`vamba model` as a user meets it: dry run, conversion, inspection, mistakes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.cli.main import app
from tests.golden.case import ROOT
from vamba.model.pretrained import from_pretrained

BASE = ROOT / "Q_qwen2vl"


def vamba(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    shutil.copytree(BASE, tmp_path / "qwen")
    return tmp_path / "qwen"


@pytest.mark.parametrize("verb", ["convert", "inspect"])
def test_help_has_an_example_and_json(verb: str) -> None:
    output = vamba("model", verb, "--help").output
    assert f"vamba model {verb}" in output and "Example:" in output and "--json" in output


def test_a_dry_run_says_what_would_be_written_and_writes_nothing(source: Path, tmp_path: Path) -> None:
    result = vamba("model", "convert", "--from", source, "--out", tmp_path / "out", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "Would write" in result.output
    assert "407,125" in result.output and "166,869" in result.output and "1.6 MiB in 1 file" in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["qwen"]
    words = ("--dry-run", "--json", "--max-shard-size", "400KB")
    planned = json.loads(vamba("model", "convert", "--from", source, "--out", tmp_path / "out", *words).stdout)
    written = json.loads(vamba("model", "convert", "--from", source, "--out", tmp_path / "out", *words[1:]).stdout)
    assert {key: written[key] for key in planned} == planned
    assert planned["num_shards"] == len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1


def test_conversion_ends_with_a_summary_and_progress_on_stderr(source: Path, tmp_path: Path) -> None:
    result = vamba("model", "convert", "--from", source, "--out", tmp_path / "out", "--seed", 5)
    assert result.exit_code == 0, result.output
    assert "Converted" in result.stdout and "121 of 121 tensors" in result.stderr
    assert from_pretrained(tmp_path / "out").config.mixer.hidden_dim == 64
    again = vamba("--quiet", "model", "convert", "--from", source, "--out", tmp_path / "other", "--seed", 6)
    assert again.exit_code == 0 and again.stderr == ""
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "other")]
    assert weights[0] != weights[1]


def test_inspection_for_people_and_programs() -> None:
    shown = vamba("model", "inspect", BASE)
    assert shown.exit_code == 0
    assert "Qwen2-VL, nested config" in shown.stdout and "240,256" in shown.stdout
    found = json.loads(vamba("model", "inspect", ROOT / "A_video_base", "--json").stdout)
    assert found["num_parameters"] == sum(found["parts"].values())
    assert found["trainable"]["stage_1"] == found["parts"]["cross_attn"] + found["parts"]["mixers"] + 3
    assert found["config"]["use_alpha_balancing"] is True
    assert found["problems"] == [] and found["tokenizer"] == []


def test_inspection_fails_where_tensors_dont_fit(source: Path) -> None:
    config = json.loads((source / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 2
    (source / "config.json").write_text(json.dumps(config))
    result = vamba("model", "inspect", source)
    assert result.exit_code == 1
    assert "12 unexpected: model.layers.2." in result.stderr and "fits its config       no" in result.stdout
    converted = vamba("model", "convert", "--from", source, "--out", source.parent / "out")
    assert converted.exit_code == 2 and "12 unexpected: model.layers.2." in converted.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("convert", "--from", "{tmp}/nowhere", "--out", "{tmp}/out"), "is not a model directory"),
        (("convert", "--from", "{tmp}/qwen", "--out", "{tmp}/qwen"), "is the source"),
        (("convert", "--from", "{tmp}/qwen", "--out", "{tmp}/diary"), "exists and is not a checkpoint"),
        (("convert", "--from", "{tmp}/pickled", "--out", "{tmp}/out"), "pickled"),
        (("convert", "--from", "{tmp}/cut", "--out", "{tmp}/out"), "cut/model.safetensors is damaged"),
        (("convert", "--from", "{golden}", "--out", "{tmp}/out"), "is a Vamba checkpoint already"),
        (("convert", "--from", "{tmp}/qwen", "--out", "{tmp}/out", "--max-shard-size", "4"), "max_shard_size is '4'"),
        (("convert", "--from", "{tmp}/qwen", "--out", "{tmp}/out", "--max-shard-size", "0B"), "must be at least 1"),
        (("inspect", "{tmp}/diary"), "it has no config.json"),
        (("inspect", "{tmp}/cut"), "cut/model.safetensors is damaged"),
    ],
)
def test_mistakes_end_with_one_paragraph_and_exit_code_2(
    words: tuple[str, ...], message: str, source: Path, tmp_path: Path
) -> None:
    for name in ("pickled", "cut"):
        shutil.copytree(source, tmp_path / name)
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (tmp_path / "diary").mkdir()
    (tmp_path / "diary" / "monday.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    result = vamba("model", *(word.format(tmp=tmp_path, golden=ROOT / "A_video_base") for word in words))
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "\n" not in result.stderr[result.stderr.index("vamba: ") :].strip() and "Traceback" not in result.output
    assert sorted(tmp_path.rglob("*")) == before


def test_an_interruption_is_one_line_and_130(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vamba.model.convert.tensor_pieces", interrupted)
    result = vamba("--quiet", "model", "convert", "--from", source, "--out", tmp_path / "out")
    assert result.exit_code == 130
    assert "nothing was written" in result.stderr and result.stderr.strip().count("\n") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["qwen"]
