"""Sizes of the model by name: one to train in a demo, one for a workstation, and hybrids of every released Qwen2-VL.

The published model is `qwen2_vl_7b`. The others are what converting that Qwen2-VL gives (`vamba model convert`).
"""

from __future__ import annotations

from vamba.model.config import MixerConfig, ModelConfig, VisionConfig

PRESETS: dict[str, ModelConfig] = {
    "tiny": ModelConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        mrope_section=(2, 3, 3),
        initializer_range=0.125,  # 1 / sqrt(64): attention starts sharp enough to find one frame among many
        bos_token_id=504,
        eos_token_id=506,
        vision_start_token_id=507,
        vision_end_token_id=508,
        vision_token_id=509,
        image_token_id=510,
        video_token_id=511,
        vision=VisionConfig(depth=1, embed_dim=48, num_heads=2, hidden_size=64),
        mixer=MixerConfig(enable=True, hidden_dim=64, d_state=16, headdim=16, chunk_size=64),
    ),
    "small": ModelConfig(
        vocab_size=151936,
        hidden_size=384,
        intermediate_size=1536,
        num_hidden_layers=8,
        num_attention_heads=6,
        num_key_value_heads=2,
        mrope_section=(8, 12, 12),
        tie_word_embeddings=True,
        vision=VisionConfig(depth=8, embed_dim=384, num_heads=6, hidden_size=384),
        mixer=MixerConfig(enable=True, hidden_dim=384, d_state=64, headdim=64, chunk_size=128),
    ),
    "qwen2_vl_2b": ModelConfig(
        vocab_size=151936,
        hidden_size=1536,
        intermediate_size=8960,
        num_attention_heads=12,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        vision=VisionConfig(hidden_size=1536),
        mixer=MixerConfig(enable=True, hidden_dim=1536),
    ),
    "qwen2_vl_7b": ModelConfig(),
    "qwen2_vl_72b": ModelConfig(
        hidden_size=8192,
        intermediate_size=29568,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        vision=VisionConfig(hidden_size=8192),
        mixer=MixerConfig(enable=True, hidden_dim=8192),
    ),
}
"""Tiny's vocabulary is the tokenizer in `vamba/assets/tiny_tokenizer`; the others use Qwen2-VL's."""
