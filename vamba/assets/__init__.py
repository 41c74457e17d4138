"""Small files that ship with the package: the tokenizer of the tiny model, and the script that makes it."""

from __future__ import annotations

from pathlib import Path

TINY_TOKENIZER = Path(__file__).parent / "tiny_tokenizer"
"""Directory of the tiny model's tokenizer."""
