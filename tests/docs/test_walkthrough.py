"""The documents' commands, from videos to an answer, with secrets in the environment.

One small workspace: four synthetic films, two CPU steps of training, all in this process. What differs from the
page is said here: a word that stands for the reader's own (RUN), a 7B recipe or a long suite in the small, no Ray.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli.main import app
from pipelines.registry import verification
from tests.architecture.sources import ROOT
from tests.docs.documented import documented_commands
from tests.golden.case import ROOT as GOLDEN
from tests.pipelines.evaluation.benchmarks.folders import lvbench
from tests.pipelines.evaluation.needle_data import write_model
from tests.pipelines.ingest.faults import OneProcess

pytestmark = pytest.mark.slow

SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTED0000KEYID",
    "AWS_SECRET_ACCESS_KEY": "planted/aws+secret",
    "AWS_SESSION_TOKEN": "planted-session-token",
    "HF_TOKEN": "hf_planted_token",
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow-password",
    "MLFLOW_TRACKING_TOKEN": "planted-mlflow-token",
    "RAY_AUTH_TOKEN": "planted-ray-token-planted-ray-token",
    "VAMBA_WEBHOOK_SECRET": "planted-webhook-secret",
}
SUITE = """
width: 128
height: 72
fps: 4
num_shapes: 4
num_textures: 8
shuffle_options: false
groups:
  - {name: clip, split: train, num_videos: 2, min_s: 12, max_s: 12, min_cards: 2, max_cards: 2, max_blanks: 0}
  - {name: held-out, split: test, num_videos: 2, min_s: 12, max_s: 12, min_cards: 2, max_cards: 2, max_blanks: 0}
"""
STANDS_FOR = {
    "RUN": "stage2",
    "DATA": "data/mine",
    "models:/vamba@champion": "models:/my-model@champion",
    "models:/vamba@challenger": "models:/my-model@champion",
    "STEP": "2",
    "stage2@800": "stage2@1",
    "pretrain": "tiny_pretrain",
    "instruct": "tiny_instruct",
    "needles_demo": "suite.yaml",
    "vniah_small": "suite.yaml",
}
_SMALL = ("--here", "--set", "train.num_steps=2", "--set", "train.checkpoint_every_steps=1")
_TINY_HOUR = (
    *(*_SMALL, "--set", "workers.device=cpu", "--set", "workers.gpu_memory_gb=null"),
    *("--set", "train.expected_trainable=null", "--set", "plan.packs_per_step=1"),
    *("--set", "parallel.streamed_above_tokens=0", "--set", "parallel.stream_chunk_tokens=32"),
)
_LENIENT = ("--force", "--reason", "a walk through the documents")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A documented command.

    added: words behind it. start: what "hybrid" stands for. exit_code: what its reader sees. home: VAMBA_HOME.
    """

    text: str
    added: tuple[str, ...] = ()
    start: str = "hybrid"
    exit_code: int = 0
    home: str = "home"


def _steps() -> Iterator[Step]:
    yield Step(text="vamba synthesize needles_demo --out videos")
    yield Step(text="vamba doctor")
    yield Step(text="vamba model convert --from Qwen2-VL-7B-Instruct --out hybrid")
    yield Step(text="vamba model inspect hybrid")
    yield Step(text="vamba ingest videos/ --out data/mine --conversations questions.jsonl")
    yield Step(text="vamba ingest videos/ --out data/videos --conversations questions.jsonl")
    yield Step(text="vamba ingest more/ --out data/videos --append")
    yield Step(text="vamba ingest videos/ more/ --out data/videos --conversations questions.jsonl --retry-failures")
    yield Step(text="vamba ingest videos --conversations videos/annotations.jsonl --out data/needles")
    yield Step(text="vamba data ls data/")
    for words in ("ls data/videos --split test", "stats data/videos --plot stats.png", "verify data/videos"):
        yield Step(text=f"vamba data {words}")
    yield Step(text="vamba data verify data/mine")
    yield Step(text="vamba data preview data/videos --out preview.html")
    yield Step(text="vamba data duplicates data/videos --near")
    yield Step(text="vamba data ls data/videos --split validation --min-seconds 3600 --json | jq -r .source_uri")
    yield Step(
        text="vamba train pretrain --data data/captions --name stage1 --init-from hybrid", added=_SMALL, start="start"
    )
    yield Step(text="vamba train instruct --data data/mine --name stage2 --init-from stage1", added=_SMALL)
    yield Step(text="vamba train hour --data data/films --name hour --init-from stage1", added=_TINY_HOUR)
    yield Step(text="vamba train tiny_pretrain --data data/demo --name stage1", added=_SMALL, home="home-train")
    yield Step(
        text="vamba train tiny_instruct --data data/demo --name stage2 --init-from stage1",
        added=_SMALL,
        home="home-train",
    )
    yield Step(text="vamba resume stage2", added=("--here",))
    yield Step(text="vamba runs logs stage2")
    yield Step(text="vamba runs show stage2")
    yield Step(text="vamba runs show RUN")
    yield Step(text="vamba runs logs RUN")
    yield Step(text="vamba report --run RUN")
    yield Step(text="vamba runs stop stage2 --wait")
    yield Step(text="vamba checkpoints verify stage2")
    yield Step(text="vamba checkpoints ls RUN")
    yield Step(text="vamba checkpoints verify RUN")
    yield Step(text='vamba checkpoints pin RUN STEP --reason "…"')
    yield Step(text="vamba checkpoints gc RUN")
    yield from _judged()
    longer = "vamba resume stage2 --set train.num_steps=4 --set checkpoints.keep_last=2"
    yield Step(text=longer, added=("--here",))
    yield Step(
        text="vamba submit train instruct --data s3://bucket/mine --name stage2 --to http://HEAD:8265",
        added=("--dry-run", "--working-dir", str(ROOT)),
    )


def _named(stage: str) -> tuple[str, ...]:
    return ("--name", f"{stage}-lvbench")


def _judged() -> Iterator[Step]:
    yield Step(text="vamba evaluate --model stage2 --data data/mine")
    yield Step(text="vamba evaluate --model stage2 --data data/mine --control shuffled-video")
    lvbench_again = "vamba evaluate stage2 --benchmark lvbench --data benchmarks/LVBench --protocol vamba"
    yield Step(
        text="vamba evaluate stage2 --benchmark lvbench --data LVBench/ --protocol vamba", added=_named("stage1")
    )
    yield Step(text=lvbench_again, added=_named("stage2"))
    yield Step(text="vamba evaluate compare stage1-lvbench stage2-lvbench")
    yield Step(text="vamba evaluate compare stage1-lvbench stage2-lvbench --html compared.html --examples 10")
    yield Step(text="vamba evaluate stage2 --data data/demo")
    yield Step(text="vamba evaluate stage2 --data data/demo --control shuffled-video")
    yield Step(text="vamba evaluate --model stage2 --data data/needles")
    yield Step(text="vamba synthesize vniah --dry-run")
    yield Step(text="vamba synthesize vniah_small --out videos/vniah")
    yield Step(text="vamba ingest videos/vniah --conversations videos/vniah/annotations.jsonl --out data/vniah")
    yield Step(text="vamba evaluate --model stage2 --data data/vniah")
    yield Step(text="vamba promote stage2 --as my-model --to champion", added=_LENIENT)
    # Both stand for the same version here, whose evaluation is compared with itself.
    yield Step(text="vamba evaluate compare models:/vamba@champion models:/vamba@challenger --json")
    yield Step(text="vamba rollback my-model", exit_code=2)  # there is no version before the first
    yield Step(text="vamba register stage2 --as vamba-demo")
    yield Step(text="vamba register stage2@800 --as vamba-demo")
    yield Step(text="vamba promote vamba-demo/1 --to champion", added=_LENIENT)
    lengths = 'gate.thresholds=[{metric: "length/30 min and over", at_least: 0.9}]'
    yield Step(text=f"vamba promote vamba-demo/1 --to champion --set '{lengths}'", exit_code=3)  # no such evaluation
    yield Step(text="vamba rollback vamba-demo", exit_code=2)
    yield Step(text="vamba history vamba-demo --verify")
    yield Step(text="vamba pull vamba-demo@champion model")
    yield Step(text="vamba export vamba-demo@champion release --dtype bfloat16")
    yield Step(text="vamba models ls")
    yield Step(text="vamba models show vamba-demo@champion")
    yield Step(text="vamba models diff vamba-demo/1 vamba-demo/2")
    yield Step(text='vamba models delete vamba-demo/2 --reason "…"')
    question = '"What happens after the race?" --model models:/my-model@champion --why looked.png'
    yield Step(text=f"vamba ask film.mp4 {question}")
    yield Step(text='vamba ask talk.mp4 "What is written on the board?" --model models:/vamba@champion')


STEPS = tuple(_steps())


@dataclass
class Walk:
    """What became of it: exit codes and output by step, and the folder that holds all files."""

    folder: Path
    codes: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    done = Walk(tmp_path_factory.mktemp("walk"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(done.folder)
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        _prepare(done.folder)
        patch.setattr(verification, "load_problem", lambda directory: "")  # 7 s of a second interpreter each
        process = OneProcess(patch)
        for step in STEPS:
            if step.text.startswith("vamba ingest"):
                _prepare_videos(done.folder)
            patch.setenv("VAMBA_HOME", str(done.folder / step.home))
            words = shlex.split(step.text.partition(" | ")[0])[1:]
            stands_for = {**STANDS_FOR, "hybrid": step.start}
            words = [*(stands_for.get(word, word) for word in words), *step.added]
            result = CliRunner().invoke(app, words)
            done.codes[step.text], done.outputs[step.text] = result.exit_code, result.output
            if result.exit_code != step.exit_code:
                break
        process.close()
        yield done


def _prepare(folder: Path) -> None:
    (folder / "suite.yaml").write_text(SUITE)
    shutil.copytree(GOLDEN / "Q_qwen2vl", folder / "Qwen2-VL-7B-Instruct")
    write_model(folder / "start")  # the tiny Qwen has no tokenizer, and this one no source
    (folder / "data").mkdir()
    for name in ("captions", "demo", "films"):
        (folder / "data" / name).symlink_to("mine")


def _prepare_videos(folder: Path) -> None:
    """What a reader has: videos, a listing of questions about them, more videos, the videos of a benchmark."""
    if (folder / "more").exists():
        return
    film = next((folder / "videos" / "test").glob("*.mp4"))
    (folder / "more").mkdir()
    shutil.copy(film, folder / "more" / "another.mp4")
    for name in ("film.mp4", "talk.mp4"):
        shutil.copy(film, folder / name)
    rows = [json.loads(line) for line in (folder / "videos" / "annotations.jsonl").read_text().splitlines()]
    lines = [json.dumps({**row, "video": f"videos/{row['video']}"}) for row in rows]
    (folder / "questions.jsonl").write_text("\n".join(lines))

    def video(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(film, path))

    lvbench(folder / "LVBench", video)
    (folder / "benchmarks").mkdir()
    (folder / "benchmarks" / "LVBench").symlink_to("../LVBench")


def test_every_command_of_the_walk_ends_as_the_page_says(walk: Walk) -> None:
    wrong = [step.text for step in STEPS if walk.codes.get(step.text, step.exit_code) != step.exit_code]
    assert not wrong, f"{wrong[0]}: exit code {walk.codes[wrong[0]]}\n{walk.outputs[wrong[0]][-3000:]}"
    assert len(walk.codes) == len(STEPS)


def test_no_file_and_no_line_holds_a_secret(walk: Walk) -> None:
    secrets = {name: value.encode() for name, value in SECRETS.items()}
    files = [path for path in walk.folder.rglob("*") if path.is_file()]
    assert len(files) > 100 and any(path.name == "mlflow.db" for path in files)
    leaked = [f"{path}: {name}" for path in files for name, value in secrets.items() if value in path.read_bytes()]
    leaked += [
        f"{text}: {name}" for text, output in walk.outputs.items() for name in secrets if SECRETS[name] in output
    ]
    assert not leaked, "\n".join(leaked)


def test_every_command_that_can_be_copied_is_walked() -> None:
    # tests/architecture/test_submit_page.py renders each command of that page.
    ours = [c for c in documented_commands() if c.text.startswith("vamba ") and c.document != "docs/submit.md"]
    documented = [c for c in ours if not c.needs]
    copied = {c.text: c.place for c in documented if c.is_block or c.document == "README.md"}
    walked = {step.text for step in STEPS}
    assert not {copied[text] for text in set(copied) - walked}, (
        "run these here, or say what they need: <!-- needs: … -->"
    )
    assert not walked - {c.text for c in documented}, "these stand in no document any more"
    assert os.environ.get("VAMBA_HOME")
