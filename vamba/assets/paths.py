"""Where the small files that ship with the package are."""

from __future__ import annotations

from pathlib import Path

TINY_TOKENIZER = Path(__file__).parent / "tiny_tokenizer"
"""Directory of the tiny model's tokenizer; `make_tiny_tokenizer` makes it."""
