"""The operations as one backend computes them, each with the arguments of its operation."""

from types import SimpleNamespace

from monosem.ops import gpu


def implementations(backend: str) -> SimpleNamespace:
    """``implementations("cuda").row_grad(...)``; a backend's modules are imported here."""
    with_it = [op for op, modules in gpu.IMPLEMENTATIONS.items() if backend in modules]
    return SimpleNamespace(**{op: gpu.implementation(op, backend) for op in with_it})
