"""From frames and questions to answers: what the processor makes is what training made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vamba.assets.paths import TINY_TOKENIZER
from vamba.data.frames import FrameProcessing, frames_to_patches
from vamba.data.text import encode_prompt
from vamba.hf.configuration import VambaConfig
from vamba.hf.modeling import VambaForConditionalGeneration
from vamba.hf.processor import VambaProcessor
from vamba.model.presets import PRESETS
from vamba.model.pretrained import save_pretrained


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "tiny"
    model = VambaForConditionalGeneration(VambaConfig.of(PRESETS["tiny"]))
    save_pretrained(model, out, tokenizer_dir=TINY_TOKENIZER, processing=FrameProcessing(min_pixels=784))
    return out


def frames(number: int, seed: int, size: tuple[int, int] = (61, 47)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (number, *size, 3), np.uint8)


def test_one_question_about_one_video(directory: Path) -> None:
    processor = VambaProcessor.from_pretrained(directory)
    video = frames(5, 1)
    inputs = processor("What happens?", videos=video)
    patches, grid = frames_to_patches(video, processor.processing)
    np.testing.assert_array_equal(inputs["pixel_values_videos"].numpy(), patches)
    assert inputs["video_grid_thw"].tolist() == [list(grid)] == [[2, 4, 4]]
    assert inputs["input_ids"].tolist() == [encode_prompt(processor.tokenizer, "What happens?", media=True)]
    for same in (torch.from_numpy(video), list(video)):
        assert torch.equal(processor("?", videos=same)["pixel_values_videos"], inputs["pixel_values_videos"])


def test_a_batch_answers_what_each_question_alone_is_answered(directory: Path) -> None:
    model = VambaForConditionalGeneration.from_pretrained(directory)
    processor = VambaProcessor.from_pretrained(directory)
    video, image = frames(4, 2), frames(1, 3)[0]
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}

    def answer(inputs: dict[str, torch.Tensor]) -> list[str]:
        made = model.generate(**inputs, **options)
        return [processor.decode(row) for row in made[:, inputs["input_ids"].shape[1] :]]

    questions = ["What colour is the card?", "Which?", "How many cards are there in the video and in the image?"]
    together = answer(processor(questions, videos=[[video], [], [video]], images=[[], [], [image]]))
    alone = [
        answer(processor(questions[0], videos=video)),
        answer(processor(questions[1])),
        answer(processor(questions[2], videos=video, images=image)),
    ]
    assert together == [text for row in alone for text in row]
    assert "attention_mask" in processor("Which?") and "media_per_sample" not in processor("Which?")


def test_numbers_that_do_not_fit_are_refused(directory: Path) -> None:
    processor = VambaProcessor.from_pretrained(directory)
    with pytest.raises(ValueError, match="2 questions came with 1 lists"):
        processor(["One?", "Two?"], videos=[[frames(2, 1)]])
    with pytest.raises(ValueError, match="no tokenizer"):
        VambaProcessor.from_pretrained(directory.parent)
