"""`python -m pipelines.registry.load_check DIRECTORY`: does this model load and write a token? Exit 0 says it does.

Run by the gate in a process of its own, so that nothing already imported or cached stands in for what is missing.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(directory: str) -> None:
    """Load, ask a question without a video, and generate one token. Any exception is the answer."""
    import torch

    from pipelines.evaluation.answering import Answerer
    from vamba.data.text import encode_prompt
    from vamba.hf.prompts import continue_prompts

    answerer = Answerer(Path(directory), device="cpu")
    prompt = encode_prompt(answerer.tokenizer, "Ready?", media=False)
    with torch.inference_mode():
        (ids,) = continue_prompts(answerer.model, [prompt], None, max_new_tokens=1, eos_ids=answerer.tokenizer.eos_ids)
    if not all(torch.isfinite(parameter).all() for parameter in answerer.model.parameters()):
        raise ValueError("the model holds parameters that are not finite numbers")
    print(f"generated {len(ids)} token")


if __name__ == "__main__":
    main(sys.argv[1])
