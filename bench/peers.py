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
# name, its environment, variants by kind of autoencoder: its default first
_PEERS = (
    ("SAELens", "sae_lens", _EVERY_KIND | {"topk": ("dense", "sparse")}),
    ("dictionary_learning", "dictionary_learning", _EVERY_KIND | {"topk": ("",)}),
    ("sparsify", "sparsify", {"topk": ("",)}),
)
KINDS = ("topk", *_EVERY_KIND)  # those that another library trains here
LIBRARIES = tuple(env for _, env, _ in _PEERS)  # by their environments
OUR_TOPK = Entrant("monosem", MONOSEM.script, variant="topk")  # to compare the cost of another kind with
CLIPPED = Entrant("monosem", MONOSEM.script, variant="clip")  # as most peers clip; it tells their loss from ours


def of_library(library: str, kind: str, error: str | None = None) -> list[Entrant]:
    """The entrants of one library for a kind, its default first; none where it does not train that.

    Args:
        error: why its environment cannot be used, where that is known.
    """
    name, env, variants = next(peer for peer in _PEERS if peer[1] == library)
    why, script = error or environments.missing(env), FOLDER / f"{env}_step.py"
    return [Entrant(name, script, "default", v, environments.python(env), missing=why) for v in variants.get(kind, ())]


def entrants(w: Workload, bf16: bool | None = None, errors: dict[str, str] | None = None) -> list[Entrant]:
    """All entrants for one kind of autoencoder, ours first; plain PyTorch where that is written for it.

    Args:
        bf16: also each peer under bf16 autocast (default: where the processor multiplies bf16).
        errors: environments that could not be set up, with the reason, which the row then shows.
    """
    bf16 = machine.multiplies_bf16() if bf16 is None else bf16
    chosen = [MONOSEM, *([DENSE, COMPILED] if dense.trains(w.kind, w.settings) else [])]
    for library in LIBRARIES:
        chosen += of_library(library, w.kind, (errors or {}).get(library))
    # SAELens' sparse path is for fp32: its documentation says not to use it under autocast.
    halves = [e for e in chosen[1:] if e.variant != "sparse"] if bf16 else []
    return chosen + [Entrant(e.name, e.script, "bf16", e.variant, e.python, e.env, e.missing) for e in halves]
