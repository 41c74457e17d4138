"""Which protocols there are, and what each says of a benchmark."""

from __future__ import annotations

import difflib

from pipelines.evaluation.protocols import lmms_eval, vamba
from pipelines.evaluation.protocols.recipe import Recipe

_PROTOCOLS = {vamba.NAME: vamba.vamba_recipe, lmms_eval.NAME: lmms_eval.lmms_recipe}


def find_recipe(protocol: str, benchmark: str) -> Recipe:
    """How `protocol` asks `benchmark`. Raises ValueError for an unknown protocol, or one without that benchmark."""
    if protocol not in _PROTOCOLS:
        close = difflib.get_close_matches(protocol, _PROTOCOLS, n=1)
        advice = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(_PROTOCOLS)}."
        raise ValueError(f"There is no protocol {protocol!r}{advice}")
    recipe = _PROTOCOLS[protocol](benchmark)
    if recipe is None:
        others = [name for name, find in _PROTOCOLS.items() if find(benchmark) is not None]
        raise ValueError(f"Protocol {protocol} has no {benchmark}: evaluate with --protocol {' or '.join(others)}.")
    return recipe
