"""Questions about a file: one look for all of them, saved, asked again and gone on with; decoding runs a bit ahead."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from typer.testing import CliRunner, Result

from jobs.cli.ask import Bars
from jobs.cli.main import app
from jobs.cli.progress_bar import bar_line
from jobs.cli.session import SESSION
from pipelines.evaluation import ask as asking
from pipelines.evaluation import decoding
from pipelines.evaluation.ahead import ahead
from pipelines.evaluation.answering import Answerer
from pipelines.evaluation.ask import AskConfig, ask, plan_ask, read_questions
from pipelines.evaluation.decoding import UnreadableVideoError, decoded_pixels
from tests.pipelines.evaluation.needle_data import write_model
from tests.pipelines.ingest.media import make_video
from vamba.streaming.placement import Wish
from vamba.streaming.saved_memory import save

QUESTIONS = ("What is shown?\nA. red\nB. green", "Who counts?")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "toy")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """75 seconds, several segments, an odd number of frames."""
    return make_video(tmp_path_factory.mktemp("videos") / "count.mp4", seconds=75, fps=4)


def vamba(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_several_questions_share_a_look(model: Path, video: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    settings = {"model": str(model), "video": str(video), "max_new_tokens": 5, "num_processes": 1}
    both = ask(AskConfig(questions=QUESTIONS, **settings), lambda *at: seen.append(at))  # type: ignore[arg-type]
    alone = [ask(AskConfig(questions=(question,), **settings)) for question in QUESTIONS]  # type: ignore[arg-type]
    assert [answered.text for answered in both.answers] == [reply.text for reply in alone]
    assert [answered.question for answered in both.answers] == list(QUESTIONS) and both.text == both.answers[0].text
    assert both.num_frames == 75 and both.duration_s == 75 and seen == [("ask", 64, 74), ("ask", 74, 74)]
    assert both.num_video_tokens == alone[0].num_video_tokens and both.placement.startswith("chunk-major, device: ")


def test_files_that_take_long_have_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    show = Bars()
    show("read", 15_000_000_000, 30_000_000_000)
    show("read", 30_000_000_000, 30_000_000_000)
    show("ask", 10, 10)
    SESSION.end_progress()
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("read [############............] 15000/30000 MB")
    assert told[-2].startswith("read [########################] 30000/30000 MB")
    assert told[-1].startswith("ask [########################] 10/10 frames")


def test_what_was_seen_is_asked_again_and_gone_on_with(model: Path, video: Path, tmp_path: Path) -> None:
    later = make_video(tmp_path / "later.mp4", seconds=9, fps=4)
    first, longer = tmp_path / "first.safetensors", tmp_path / "longer.safetensors"
    common = ("--model", model, "--set", "max_new_tokens=5", "--set", "num_processes=1", "--json")
    told = vamba("ask", video, *QUESTIONS, "--save", first, "--kv", "disk", *common)
    assert told.exit_code == 0, told.output
    reply = json.loads(told.stdout)
    assert reply["saved"] == str(first) and reply["placement"].startswith("chunk-major, disk: ")
    assert "ask [########################] 74/74 frames" in told.stderr
    assert "save [" not in told.stderr  # it is small
    again = json.loads(vamba("ask", "--memory", first, QUESTIONS[1], *common).stdout)
    assert again["text"] == reply["answers"][1]["text"] and again["decode_s"] == 0
    same = ("video", "duration_s", "num_frames", "num_video_tokens")
    assert [again[name] for name in same] == [reply[name] for name in same]
    assert json.loads(vamba("ask", first, QUESTIONS[1], *common).stdout)["text"] == again["text"]
    more = vamba("ask", later, QUESTIONS[0], "--extend", first, "--save", longer, *common)
    assert more.exit_code == 0, more.output
    extended = json.loads(more.stdout)
    assert (extended["num_frames"], extended["duration_s"]) == (84, 84) and str(later) in extended["video"]
    assert extended["num_video_tokens"] == reply["num_video_tokens"] * 41 // 37
    planned = vamba("ask", longer, "And?", "--dry-run", *common)
    assert "duration_ns  84000000000" in planned.stdout


def test_a_later_file_follows_as_if_it_were_one(model: Path) -> None:
    answerer = Answerer(model, device="cpu")
    frames = np.random.default_rng(0).integers(0, 255, (24, 60, 60, 3), np.uint8)
    begun = answerer.look([frames[:10]], 10, times_ns=range(10))
    whole = answerer.look([frames], 24, times_ns=range(24))
    longer = answerer.look([frames[10:]], 14, after=begun, times_ns=range(10, 24))
    for layer in range(answerer.model.architecture.num_hidden_layers):
        for one, other in zip(longer.open_pass(1).parts(layer), whole.open_pass(1).parts(layer), strict=True):
            assert one.k_MKD.equal(other.k_MKD) and one.v_MKD.equal(other.v_MKD)
    assert longer.times_ns == whole.times_ns == tuple(range(0, 24, 2))
    asked = [answerer.ask(memory, QUESTIONS, max_new_tokens=4) for memory in (longer, whole)]
    assert asked[0] == asked[1]
    layer_major = answerer.look([frames], 24, wish=Wish(order="layer-major"))
    assert answerer.ask(layer_major, QUESTIONS, max_new_tokens=4) == asked[0]


def test_segments_of_processes_come_in_order_and_none_is_lost(video: Path) -> None:
    planned = plan_ask(AskConfig(model="-", video=str(video), questions=("?",)))
    assert len(planned.timestamps_ns) == 75
    alone, apart = (np.concatenate(list(decoded_pixels(planned, 90, count))) for count in (1, 2))
    np.testing.assert_array_equal(alone, apart)
    assert len(alone) == 75


def test_a_counted_video_is_decoded_as_it_comes(tmp_path: Path) -> None:
    path = make_video(tmp_path / "old.avi", seconds=6, fps=4, bf=3)
    planned = plan_ask(AskConfig(model="-", video=str(path), questions=("?",)))
    assert planned.is_counted and len(np.concatenate(list(decoded_pixels(planned, 90, 2)))) == 6
    path.write_bytes(path.read_bytes()[:-9000])
    with pytest.raises(UnreadableVideoError, match="old.avi can't be"):
        list(decoded_pixels(planned, 90, 1))


def test_no_more_than_a_few_pieces_are_ahead() -> None:
    made = 0

    def files() -> Iterator[bytes]:
        nonlocal made
        picture = simplejpeg.encode_jpeg(np.zeros((36, 64, 3), np.uint8), quality=80, colorspace="RGB")
        while True:
            made += 1
            yield picture

    pieces = ahead(decoding._pieces(files(), 64, 36), 2)
    for _ in range(3):
        next(pieces)
    pieces.close()
    assert made <= (3 + 2 + 1) * 64
    large = decoding._pieces(files(), 3840, 2160)
    assert len(next(large)) == 2


def test_an_error_comes_in_its_turn() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise UnreadableVideoError("broken")

    got = []
    with pytest.raises(UnreadableVideoError, match="broken"):
        for item in ahead(items(), 5):
            got.append(item)
    assert got == [1, 2]


def test_questions_of_a_file_and_mistakes(model: Path, video: Path, tmp_path: Path) -> None:
    path = tmp_path / "questions.txt"
    path.write_text("What?\nA. this\nB. that\n\n\n\nWho?\n", encoding="utf-8")
    assert read_questions(path) == ["What?\nA. this\nB. that", "Who?"]
    common = ("--model", model, "--set", "max_new_tokens=2", "--set", "num_processes=1")
    told = vamba("ask", video, "First?", "--questions", path, *common)
    assert told.exit_code == 0 and "First?\n" in told.stdout and "Who?\n" in told.stdout
    path.write_text("\n \n", encoding="utf-8")
    memory = tmp_path / "m.safetensors"
    memory.write_bytes(b"no memory")
    for words, message in (
        ((video, "--questions", path), "holds no question"),
        ((video,), "There is no question"),
        ((video, " "), "question is empty"),
        ((), "nothing to look at"),
        (("--memory", memory, "--extend", memory, "Who?"), "give one of the two"),
        (("--memory", memory, "Who?"), "damaged or no safetensors file"),
        (("--memory", tmp_path / "absent", "Who?"), "no file at"),
        ((video, "Who?", "--save", tmp_path / "no" / "m"), "its directory does not exist"),
        ((video, "Who?", "--save", tmp_path), "that is a directory"),
        ((video, "Who?", "--save", "/proc/m"), "its directory can't be written to"),
        ((video, "Who?", "--memory", memory), "to go on with it, use --extend"),
        ((video, "Who?", "--kv", "tape"), "kv"),
    ):
        result = vamba("ask", *words, *common)
        assert result.exit_code == 2 and message in result.stderr, (words, result.output)


def test_the_bar_says_how_far_how_fast_and_how_long() -> None:
    assert bar_line("ask", "frames", 0, 3600, 0.0) == f"ask [{'.' * 24}] 0/3600 frames"
    assert bar_line("ask", "frames", 900, 3600, 6.0) == f"ask [{'#' * 6}{'.' * 18}] 900/3600 frames, 150/s, 0:18 left"


def test_why_draws_what_the_answers_looked_at(model: Path, video: Path, tmp_path: Path) -> None:
    picture, seen = tmp_path / "why.png", tmp_path / "seen.safetensors"
    common = ("--model", model, "--set", "max_new_tokens=5", "--set", "num_processes=1", "--json")
    told = vamba("ask", video, *QUESTIONS, "--why", picture, "--save", seen, *common)
    assert told.exit_code == 0, told.output
    reply = json.loads(told.stdout)
    assert picture.read_bytes().startswith(b"\x89PNG") and reply["why"] == str(picture)
    assert [look["question"] for look in reply["looked"]] == list(QUESTIONS)
    for look in reply["looked"]:
        assert len(look["times_s"]) == len(look["weights"]) == 37 and sum(look["weights"]) == pytest.approx(1, abs=1e-5)
        assert all(look["weights"][peak["pair"]] == peak["weight"] for peak in look["peaks"]) and look["peaks"]
    again = json.loads(vamba("ask", "--memory", seen, *QUESTIONS, "--why", tmp_path / "again.svg", *common).stdout)
    assert again["looked"] == reply["looked"] and (tmp_path / "again.svg").stat().st_size > 10_000
    refused = vamba("ask", video, QUESTIONS[1], "--why", tmp_path / "why.txt", *common)
    assert refused.exit_code == 2 and "must end in one of" in refused.output


def test_a_memory_that_was_saved_from_python_is_asked_and_gone_on_with(
    model: Path, video: Path, tmp_path: Path
) -> None:
    """Without notes, or with others, and without times, as docs/ask.md shows it."""
    answerer, frames = (
        Answerer(model, device="cpu"),
        np.random.default_rng(0).integers(0, 255, (6, 36, 64, 3), np.uint8),
    )
    plain, timed, longer = (tmp_path / f"{name}.safetensors" for name in ("plain", "timed", "longer"))
    save(answerer.look([frames], 6), plain, answerer.model)
    times_ns = [n * 10**9 for n in range(6)]
    save(answerer.look([frames], 6, times_ns=times_ns), timed, answerer.model, notes={"video": 5, "fps": 1})
    common = ("--model", model, "--set", "max_new_tokens=2", "--set", "num_processes=1", "--json")
    for path, duration_s in ((plain, 0), (timed, 6)):
        told = vamba("ask", path, "Who?", "--kv", "disk", *common)
        assert told.exit_code == 0, told.output
        reply = json.loads(told.stdout)
        assert (reply["video"], reply["num_frames"], reply["duration_s"]) == (str(path), 6, duration_s)
        assert f"read from {path}" in reply["placement"]
        more = vamba("ask", video, "Who?", "--extend", path, "--save", longer, *common)
        assert more.exit_code == 0, more.output
        assert json.loads(more.stdout)["num_frames"] == 81
    drawn = json.loads(vamba("ask", longer, "Who?", "--why", tmp_path / "why.png", *common).stdout)
    assert drawn["looked"][0]["times_s"][:5] == [0, 2, 4, 6, 8]
    refused = vamba("ask", plain, "Who?", "--why", tmp_path / "why.png", *common)
    assert refused.exit_code == 2 and "when each frame is shown" in refused.output


def test_frames_at_peaks_are_of_the_file_that_was_seen(
    model: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of another one that has its name, there or where the command runs now."""
    shown: list[int] = []
    monkeypatch.setattr(asking, "write_picture", lambda looks, frames, path: shown.append(len(frames)))
    (tmp_path / "there").mkdir()
    seen, path = tmp_path / "seen.safetensors", tmp_path / "clip.mp4"
    path.write_bytes(video.read_bytes())
    common = ("--model", model, "--set", "max_new_tokens=2", "--set", "num_processes=1")
    monkeypatch.chdir(tmp_path)
    assert vamba("ask", "clip.mp4", "Who?", "--save", seen, *common).exit_code == 0
    monkeypatch.chdir(tmp_path / "there")
    make_video(tmp_path / "there" / "clip.mp4", seconds=75, fps=5)
    assert vamba("ask", seen, "Who?", "--why", "why.png", *common).exit_code == 0
    make_video(path, seconds=75, fps=5)
    assert vamba("ask", seen, "Who?", "--why", "why.png", *common).exit_code == 0
    assert shown[0] > 0 and shown[1] == 0


def test_a_few_frames_are_those_of_the_whole(video: Path) -> None:
    planned = plan_ask(AskConfig(model="-", video=str(video), questions=QUESTIONS))
    pixels = np.concatenate(list(decoded_pixels(planned, 90, 1)))
    found = decoding.frames_at(planned, {3, 70, 41}, 90)
    assert sorted(found) == [3, 41, 70] and all((found[n] == pixels[n]).all() for n in found)
