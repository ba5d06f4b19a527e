"""The entrants: monosem, plain PyTorch, and the other libraries in environments of their own."""

from __future__ import annotations

from pathlib import Path

import environments

from monosem.bench import machine
from monosem.bench.entrants import dense
from monosem.bench.rounds import COMPILED, DENSE, MONOSEM, Entrant
from monosem.bench.workloads import Workload

FOLDER = Path(__file__).resolve().parent / "libraries"
NO_BF16 = (
    "peers ran in their default precision (fp32) only: this processor has no bf16 products, and autocast to bf16 "
    "makes every one of them slower"
)

_EVERY_KIND = dict.fromkeys(("relu", "batch_topk", "jumprelu", "gated", "matryoshka"), ("",))
# name, its entrant's file, its environment, variants by kind of autoencoder
_PEERS = (
    ("SAELens", "sae_lens_step.py", "sae_lens", _EVERY_KIND | {"topk": ("dense", "sparse")}),
    ("dictionary_learning", "dictionary_learning_step.py", "dictionary_learning", _EVERY_KIND | {"topk": ("",)}),
    ("sparsify", "sparsify_step.py", "sparsify", {"topk": ("",)}),
)
KINDS = ("topk", *_EVERY_KIND)  # those that another library trains here
OUR_TOPK = Entrant("monosem", MONOSEM.script, variant="topk")  # to compare the cost of another kind with
CLIPPED = Entrant("monosem", MONOSEM.script, variant="clip")  # as most peers clip; it tells their loss from ours


def entrants(w: Workload, bf16: bool | None = None, errors: dict[str, str] | None = None) -> list[Entrant]:
    """All entrants for one kind of autoencoder, ours first; plain PyTorch where that is written for it.

    Args:
        bf16: also each peer under bf16 autocast (default: where the processor multiplies bf16).
        errors: environments that could not be set up, with the reason, which the row then shows.
    """
    bf16 = machine.multiplies_bf16() if bf16 is None else bf16
    chosen = [MONOSEM, *([DENSE, COMPILED] if dense.trains(w.kind, w.settings) else [])]
    for name, script, env, variants in _PEERS:
        why = (errors or {}).get(env) or environments.missing(env)
        for variant in variants.get(w.kind, ()):
            chosen.append(Entrant(name, FOLDER / script, "default", variant, environments.python(env), missing=why))
    # SAELens' sparse path is for fp32: its documentation says not to use it under autocast.
    halves = [e for e in chosen[1:] if e.variant != "sparse"] if bf16 else []
    return chosen + [Entrant(e.name, e.script, "bf16", e.variant, e.python, e.env, e.missing) for e in halves]
