"""Generation through transformers: cached equals recomputed, in batches, with every flag; a video is encoded once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.vamba.hf.models import media, prompt, random_model
from tests.vamba.model.samples import FLAGS
from vamba.hf.prompts import continue_prompts
from vamba.streaming.encoder import VideoEncoder
from vamba.streaming.placement import Placement

VIDEOS = [media(3, (5, 4, 4)), media(4, (2, 2, 4), (1, 4, 4)), None]
PROMPTS = [prompt(seed, length)[0].tolist() for seed, length in ((1, 9), (2, 3), (5, 6))]
NEW = 6


def inputs_of(video: Any) -> dict[str, Any]:
    return {} if video is None else {"pixel_values_videos": video[0], "video_grid_thw": video[1]}


@torch.no_grad()
def recomputed(model: Any, ids: list[int], video: Any) -> list[int]:
    """Greedy decoding without any cache: the whole model, video and all, again for every token."""
    row = list(ids)
    for _ in range(NEW):
        row.append(int(model(torch.tensor([row]), **inputs_of(video)).logits[0, -1].argmax()))
    return row[len(ids) :]


def padded() -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, PROMPTS))
    ids = torch.tensor([[7] * (longest - len(row)) + row for row in PROMPTS])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in PROMPTS])
    return ids, mask


def rows_of(model: Any) -> Any:
    return [None if video is None else model.encode_video(video[0], video[1]) for video in VIDEOS]


@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_greedy_batch_equals_recomputation(flags: dict[str, Any]) -> None:
    """Rows of different lengths about different videos, one of them about none."""
    model = random_model(**flags)
    expected = [recomputed(model, ids, video) for ids, video in zip(PROMPTS, VIDEOS, strict=True)]
    assert len({tuple(answer) for answer in expected}) > 1
    ids, mask = padded()
    for options in ({}, {"use_cache": False}, {"cache_implementation": "static"}, {"prefill_chunk_size": 4}):
        made = model.generate(
            ids,
            attention_mask=mask,
            videos=rows_of(model),
            max_new_tokens=NEW,
            do_sample=False,
            pad_token_id=0,
            **options,
        )
        assert made[:, ids.shape[1] :].tolist() == expected, options


def test_pixels_and_encoded_videos_say_the_same() -> None:
    model = random_model()
    ids, mask = padded()
    patches = torch.cat([video[0] for video in VIDEOS if video is not None])
    grids = torch.cat([video[1] for video in VIDEOS if video is not None])
    options = {"attention_mask": mask, "max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    from_pixels = model.generate(
        ids, pixel_values_videos=patches, video_grid_thw=grids, media_per_sample=[(0, 1), (0, 2), (0, 0)], **options
    )
    assert torch.equal(from_pixels, model.generate(input_ids=ids, videos=rows_of(model), **options))
    with pytest.raises(ValueError, match="not both"):
        model.generate(ids, pixel_values_videos=patches, video_grid_thw=grids, videos=rows_of(model))


@pytest.mark.parametrize("flags", FLAGS[1:4], ids=str)
def test_beams_and_samples_equal_those_without_a_cache(flags: dict[str, Any]) -> None:
    model = random_model(**flags)
    ids, mask = padded()
    for options in (
        {"num_beams": 3, "do_sample": False, "num_return_sequences": 2, "length_penalty": 0.5},
        {"do_sample": True, "num_return_sequences": 2, "top_k": 9, "temperature": 0.8},
        {"num_beams": 2, "do_sample": True},
    ):
        made = []
        for use_cache in (True, False):
            torch.manual_seed(3)
            made.append(
                model.generate(
                    ids, attention_mask=mask, videos=rows_of(model), max_new_tokens=NEW, pad_token_id=0,
                    use_cache=use_cache, **options,
                )
            )  # fmt: skip
        assert torch.equal(*made), options


def test_one_beam_search_is_checked_by_hand() -> None:
    """The best of all two-token continuations, by enumeration."""
    model = random_model()
    video, ids = VIDEOS[0], torch.tensor([PROMPTS[0]])
    with torch.no_grad():
        first = model(ids, **inputs_of(video)).logits[0, -1].log_softmax(-1)
        rows = torch.cat([ids.expand(64, -1), torch.arange(64)[:, None]], dim=1)
        memory = model.encode_video(*video)
        second = model(rows, videos=memory, use_cache=False).logits[:, -1].log_softmax(-1)
    best = divmod(int((first[:, None] + second).argmax()), 64)
    made = model.generate(ids, **inputs_of(video), max_new_tokens=2, num_beams=64, do_sample=False, pad_token_id=0)
    assert tuple(made[0, -2:].tolist()) == best


def test_each_video_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model()
    calls: dict[str, int] = {}

    def counted(name: str) -> Any:
        def hook(*_: Any) -> None:
            calls[name] = calls.get(name, 0) + 1

        return hook

    model.visual.register_forward_hook(counted("tower"))
    model.model.layers[0].cross_attn.k_proj.register_forward_hook(counted("keys"))
    model.model.layers[0].vision_mixer.register_forward_hook(counted("mixer"))
    ids = torch.tensor([PROMPTS[0]])
    model.generate(ids, **inputs_of(VIDEOS[0]), max_new_tokens=NEW, num_beams=3, do_sample=False, pad_token_id=0)
    assert calls == {"tower": 1, "keys": 1, "mixer": 1}


def test_rows_about_one_video_read_its_keys_together() -> None:
    model = random_model()
    memory, reads = model.encode_video(*VIDEOS[0]), []
    original = model.ops.cross_attention

    def counted(q_THD: torch.Tensor, k_MKD: torch.Tensor, v_MKD: torch.Tensor, layout: Any) -> torch.Tensor:
        reads.append(len(q_THD))
        return original(q_THD, k_MKD, v_MKD, layout=layout)

    memory = replace(memory, ops=replace(memory.ops, cross_attention=counted))
    ids, mask = padded()
    model.generate(ids, attention_mask=mask, videos=memory, max_new_tokens=2, do_sample=False, pad_token_id=0)
    assert reads == [3 * ids.shape[1]] * 3 + [3] * 3


@pytest.mark.parametrize("flags", FLAGS[:4], ids=str)
@pytest.mark.parametrize("order", ["chunk-major", "layer-major"])
def test_a_video_in_several_parts_says_the_same(order: Any, flags: dict[str, Any]) -> None:
    model = random_model(**flags)
    (patches, grids), (ids, mask) = media(3, (9, 4, 6)), padded()
    encoder = VideoEncoder(model, Placement(kv="disk", order=order), chunk_tokens=8, block_tokens=16)
    encoder.add(patches, tuple(grids[0].tolist()))
    options = {"attention_mask": mask, "max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    whole = model.generate(ids, videos=model.encode_video(patches, grids), **options)
    assert torch.equal(model.generate(ids, videos=encoder.finish(), **options), whole)


def test_a_manual_loop_with_the_returned_cache() -> None:
    model = random_model(cross_attn_use_position_embeddings=True)
    expected = recomputed(model, PROMPTS[0], VIDEOS[0])
    with torch.no_grad():
        out = model(torch.tensor([PROMPTS[0]]), use_cache=True, **inputs_of(VIDEOS[0]))
        tokens = []
        for _ in range(NEW):
            tokens.append(int(out.logits[0, -1].argmax()))
            cache = out.get("cache", out.get("past_key_values"))
            out = model(torch.tensor([[tokens[-1]]]), cache=cache, videos=out.videos)
    assert tokens == expected


def test_prompt_lookup_decoding_is_greedy_decoding() -> None:
    """Several tokens at once against a cache that is cropped again."""
    model = random_model()
    ids = torch.tensor([PROMPTS[1] * 3])
    plain = model.generate(ids, **inputs_of(VIDEOS[0]), max_new_tokens=9, do_sample=False, pad_token_id=0)
    guessed = model.generate(
        ids, **inputs_of(VIDEOS[0]), max_new_tokens=9, do_sample=False, pad_token_id=0, prompt_lookup_num_tokens=3
    )
    assert torch.equal(plain, guessed)


def test_many_prompts_and_their_ends() -> None:
    model = random_model()
    memory = model.encode_video(*VIDEOS[0])
    free = continue_prompts(model, PROMPTS, memory, max_new_tokens=NEW, eos_ids=[])
    assert free == [recomputed(model, ids, VIDEOS[0]) for ids in PROMPTS]
    stop = free[0][2]
    for answer, whole in zip(
        continue_prompts(model, PROMPTS, memory, max_new_tokens=NEW, eos_ids=[stop]), free, strict=True
    ):
        assert answer == (whole[: whole.index(stop)] if stop in whole else whole)
    assert continue_prompts(model, [], memory, max_new_tokens=3, eos_ids=[]) == []
    with pytest.raises(ValueError, match="empty"):
        continue_prompts(model, [[]], None, max_new_tokens=3, eos_ids=[])


def test_refusals() -> None:
    model = random_model()
    memory, ids = model.encode_video(*VIDEOS[0]), torch.tensor([PROMPTS[0]] * 3)
    with pytest.raises(ValueError, match="2 videos were given for 3 rows"):
        model.generate(ids, videos=[memory, memory], max_new_tokens=2)
    with pytest.raises(ValueError, match="2 videos were given for 6 rows"):
        model(torch.cat([ids, ids]), videos=[memory, None])
    with pytest.raises(ValueError, match="a loss is a pass of its own"):
        model(ids, labels=ids, videos=memory)
