"""Small folders in the form each benchmark is published in. The videos are empty files by default."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

MakeVideo = Callable[[Path], object]


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), path)
    return path


def lvbench(root: Path, video: MakeVideo = touch) -> Path:
    def asked(uid: str, answer: str, *kinds: str) -> dict[str, Any]:
        text = "What is it?\n(A) red\n(B) blue\n(C) green\n(D) black"
        return {"uid": uid, "question": text, "answer": answer, "question_type": list(kinds), "time_reference": "00:01"}

    rows = [
        {"key": "abc", "qa": [asked("1", "A", "reasoning", "summarization"), asked("2", "B", "reasoning")]},
        {"key": "-def", "qa": [asked("3", "C", "entity recognition")]},
    ]  # fmt: skip
    write_lines(root / "video_info.meta.jsonl", rows)
    for row in rows:
        video(root / "videos" / f"{row['key']}.mp4")
    return root


def hourvideo(root: Path, video: MakeVideo = touch) -> Path:
    def asked(qid: str, task: str, label: str) -> dict[str, Any]:
        options = "A. x\nB. y\nC. z\nD. w\nE. v"
        return {
            "qid": qid,
            "task": task,
            "question": "What is the order?",
            "mcq_test": options,
            "correct_answer_label": label,
        }

    questions = [asked("u1_0", "summarization/key_events", "A"), asked("u1_1", "perception/recall", "E")]
    document = {
        "uid-1": {"video_metadata": {"duration": 3600}, "benchmark_dataset": questions},
        "uid-2": {"video_metadata": {}, "benchmark_dataset": [asked("u2_0", "perception/recall", "B")]},
    }
    write_json(root / "dev_v1.0_annotations.json", document)
    for uid in document:
        video(root / "videos" / f"{uid}.mp4")
    return root


def videomme(root: Path, video: MakeVideo = touch) -> Path:
    def asked(number: int, name: str, duration: str, kind: str, answer: str) -> dict[str, Any]:
        return {
            "video_id": "001", "duration": duration, "domain": "Knowledge", "sub_category": "Geography", "url": "",
            "videoID": name, "question_id": f"001-{number}", "task_type": kind, "question": "How many dogs?",
            "options": ["A. 1.", "B. 2.", "C. 3.", "D. 4."], "answer": answer,
        }  # fmt: skip

    rows = [asked(1, "fFjv93", "short", "Counting Problem", "C"), asked(2, "fFjv93", "short", "OCR Problems", "D")]
    rows.append(asked(3, "N1cd", "long", "OCR Problems", "A"))
    write_parquet(root / "videomme" / "test-00000-of-00001.parquet", rows)
    for name in ("fFjv93", "N1cd"):
        video(root / "data" / f"{name}.mp4")
    return root


def mlvu(root: Path, video: MakeVideo = touch) -> Path:
    def asked(name: str, kind: str, answer: str) -> dict[str, Any]:
        candidates = ["x", "y", "z", "w"]
        return {
            "video": name, "duration": 480.5, "question": "What happens?", "candidates": candidates, "answer": answer,
            "question_type": kind,
        }  # fmt: skip

    write_json(root / "json" / "2_needle.json", [asked("needle_1.mp4", "findNeedle", "y")])
    write_json(root / "json" / "4_count.json", [asked("count_1.mp4", "count", "w"), asked("count_1.mp4", "count", "x")])
    video(root / "video" / "2_needle" / "needle_1.mp4")
    video(root / "video" / "4_count" / "count_1.mp4")
    return root


def longvideobench(root: Path, video: MakeVideo = touch) -> Path:
    rows = [
        {
            "video_id": "86CxyhFV9MI", "question": "Who?", "candidates": ["x", "y", "z"], "correct_choice": 2,
            "question_category": "S2E", "topic_category": "NP", "id": "86CxyhFV9MI_0", "video_path": "86CxyhFV9MI.mp4",
            "subtitle_path": "86CxyhFV9MI_en.json", "duration_group": 600, "duration": 190.16,
        },
        {
            "video_id": "other", "question": "When?", "candidates": ["a", "b", "c", "d", "e"], "correct_choice": 0,
            "question_category": "T3O", "topic_category": "NP", "id": "other_0", "video_path": "other.mp4",
            "duration_group": 3600, "duration": 2400.0,
        },
    ]  # fmt: skip
    write_json(root / "lvb_val.json", rows)
    for row in rows:
        video(root / "videos" / str(row["video_path"]))
    return root


def nextqa(root: Path, video: MakeVideo = touch) -> Path:
    rows = [
        {
            "video": 4010069381, "frame_count": 369, "width": 640, "height": 480, "question": "why did the dog run",
            "answer": answer, "qid": qid, "type": kind, "a0": "x", "a1": "y", "a2": "z", "a3": "w", "a4": "v",
        }
        for qid, kind, answer in ((6, "CW", 4), (7, "TN", 0))
    ]  # fmt: skip
    write_parquet(root / "MC" / "test-00000-of-00001.parquet", rows)
    video(root / "NExTVideo" / "4010069381.mp4")
    return root


def mvbench(root: Path, video: MakeVideo = touch) -> Path:
    counted = {"video": "c.mp4", "question": "How many?", "candidates": ["3", "2", "1"], "answer": "2"}
    cut = {
        "video": "s.mp4",
        "question": "What?",
        "candidates": ["x", "y", "z"],
        "answer": "z",
        "start": 1.0,
        "end": 2.5,
    }
    pictures = {**cut, "video": "friends_clip", "answer": "x", "start": 0.9, "end": 2.0, "fps": 3}
    write_json(root / "json" / "moving_count.json", [counted])
    write_json(root / "json" / "action_sequence.json", [cut, {**cut, "start": 0.0, "end": 1.0}])
    write_json(root / "json" / "episodic_reasoning.json", [pictures])
    video(root / "video" / "clevrer" / "video_validation" / "c.mp4")
    video(root / "video" / "star" / "Charades_v1_480" / "s.mp4")
    (root / "video" / "tvqa" / "frames_fps3_hq" / "friends_clip").mkdir(parents=True)
    return root


def houreval(root: Path, video: MakeVideo = touch) -> Path:
    videomme(root / "videomme", video)
    mlvu(root / "MLVU" / "MLVU", video)
    longvideobench(root / "LongVideoBench", video)
    return root
