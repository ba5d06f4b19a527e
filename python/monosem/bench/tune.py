"""Block sizes measured on this GPU: ``monosem bench --tune`` writes the table that ``kernels/launch.py`` reads.

For one width D, each kernel's alternatives are tried one at a time against the rule: first for the right result on a
small case, then for time in the operation that uses it, at the workload's size. An alternative is kept when it is more
than 2 % faster than the rule. The table is ``kernels/tuned/<gpu>.json``; entries of other sizes in it stay.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from monosem.bench import operations
from monosem.bench.gpu_clock import CaptureFailed
from monosem.bench.workloads import Workload
from monosem.ops import cuda_launch, gpu, tune_table
from monosem.ops.tune_table import override, sizes_used

GAIN = 0.98
# Operation → Triton's kernels in it whose block sizes have alternatives.
TRITON = {
    "topk_encode": ("product", "select", "sample", "collect", "collect_hits", "choose"),
    "threshold_encode": ("select_active", "collect", "collect_hits", "score"),
    "sparse_decode": ("sparse_decode",),
    "gather_dot": ("gather_dot",),
    "decode_loss": ("decode_loss",),
    "row_grad": ("row_grad",),
    "row_grad_adam_": ("row_grad_adam",),
    "encoder_grad_adam_": ("encoder_grad_adam",),
}
CUDA = {
    "sparse_decode": ("sparse_decode",),
    "decode_loss": ("decode_loss",),
    "row_grad": ("row_grad",),
    "row_adam_": ("row_adam",),
    "row_grad_adam_": ("row_grad_adam",),
    "encoder_grad_adam_": ("encoder_grad_adam",),
}


@contextmanager
def asked_for(backend: str) -> Iterator[None]:
    """``MONOSEM_BACKEND`` for a while."""
    before = os.environ.get("MONOSEM_BACKEND")
    os.environ["MONOSEM_BACKEND"] = backend
    try:
        yield
    finally:
        os.environ.pop("MONOSEM_BACKEND") if before is None else os.environ.__setitem__("MONOSEM_BACKEND", before)


def small_case(w: Workload, device: torch.device) -> dict[str, Callable[[], list[Tensor]]]:
    """The operations at this width on little data, from fresh copies each time, with their results."""
    by_name = {op.name: op for op in operations.operations(w.with_(n=96, f=max(4 * w.k, 4096)), device)}

    def fresh(name: str) -> list[Tensor]:
        kept = [t for t in _tensors(by_name[name].call.__closure__) if t.is_floating_point()]
        before = [t.clone() for t in kept]
        out = by_name[name].call()
        results = [t.clone() for t in [*kept, *_tensors(out)]]
        for t, b in zip(kept, before, strict=True):
            t.copy_(b)
        return results

    return {name: lambda name=name: fresh(name) for name in by_name}


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    if hasattr(tree, "cell_contents"):
        return _tensors(tree.cell_contents)
    if hasattr(tree, "csr"):
        return list(tree.csr())
    return [t for part in tree for t in _tensors(part)] if isinstance(tree, (tuple, list)) else []


def same(results: list[Tensor], expected: list[Tensor]) -> bool:
    """Equal up to the order of sums in fp32."""
    return all(
        torch.equal(a, b) if not a.is_floating_point() else torch.allclose(a, b, rtol=1e-4, atol=1e-5)
        for a, b in zip(results, expected, strict=True)
    )


def tune(
    w: Workload, clock: Any, name: str, arch: str, *, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Find the entries for this workload's width.

    Args:
        clock: a ``gpu_clock.Clock``.
        name, arch: of the GPU, as ``kernels/launch.py`` takes them.

    Returns:
        {kernel: {size: {constant: value}}} of what was faster than the rule; "tried": every choice with its time; and
        "stopped": why before the end, where a capture failed, after which a process measures nothing more.
    """
    table = tune_table.table(name)
    tried: list[dict[str, Any]] = []
    kept: dict[str, dict[str, dict[str, int]]] = {}
    checks = small_case(w, clock.device)
    tuning = {"kernels": kept, "tried": tried}
    try:
        with torch.no_grad():
            for op, backend, kernels in _tunable(operations.operations(w, clock.device)):
                with asked_for(backend):
                    for kernel, size, choices in _alternatives(op, backend, kernels, w.d, arch):
                        best = _best(op, checks[op.name], table, kernel, size, choices, clock, tried, say)
                        if best is not None:
                            kept.setdefault(kernel, {})[str(size)] = best
    except CaptureFailed as error:
        tuning["stopped"] = str(error)
    return tuning


def _tunable(todo: list[operations.Operation]) -> Iterator[tuple[operations.Operation, str, tuple[str, ...]]]:
    """Operation, backend and its kernels in that."""
    for op in todo:
        for backend, kernels in (("triton", TRITON.get(op.name, ())), ("cuda", CUDA.get(op.name, ()))):
            if kernels and not gpu.available(backend):
                yield op, backend, kernels


def _alternatives(
    op: operations.Operation, backend: str, kernels: tuple[str, ...], d: int, arch: str
) -> list[tuple[str, int, list[dict[str, int]]]]:
    """Kernel, size and choices."""
    if backend == "cuda":
        return [(f"cuda_{kernel}", d, [{"threads": t} for t in cuda_launch.THREADS]) for kernel in kernels]
    with sizes_used() as used:
        op.call()
    asked = [(k, s) for k in kernels for s in sorted(used.get(k, ()))]
    return [(k, s, tune_table.alternatives(k, s, arch)) for k, s in asked]


def _best(op, check, table, kernel, size, choices, clock, tried, say) -> dict[str, int] | None:
    """The fastest right choice, or None when the rule is as good."""
    with override(table, kernel, size, None):
        expected, rule = check(), clock.time(op.call, graph=not op.waits).ms
    tried.append({"kernel": kernel, "size": size, "choice": "rule", "operation": op.name, "ms": rule})
    fastest, fastest_choice = GAIN * rule, None
    for choice in choices:
        row = {"kernel": kernel, "size": size, "choice": choice, "operation": op.name}
        say(f"{op.name}: {kernel} {size} {choice}")
        with override(table, kernel, size, choice):
            try:
                if not same(check(), expected):
                    tried.append(row | {"error": "another result than the rule's"})
                    continue
                ms = clock.time(op.call, graph=not op.waits).ms
            except CaptureFailed:
                raise  # of no use for what comes after it
            except Exception as error:  # more shared memory or registers than this GPU has, say
                tried.append(row | {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]})
                continue
        tried.append(row | {"ms": ms})
        if ms < fastest:
            fastest, fastest_choice = ms, choice
    return fastest_choice
