"""Registration with PyTorch: one call an operation gives it a schema, a kernel per device, a shape rule, gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch

from monosem.ops import backend, gpu
from monosem.ops.precision import as_given

_LIBRARY = torch.library.Library("monosem", "DEF")


def register(
    schema: str, *, cpu: Callable, reference: Callable, fake: Callable, backward: Callable | None = None,
    setup: Callable | None = None,
) -> Callable:  # fmt: skip
    """Define ``monosem::<schema>`` and return the callable.

    Args:
        cpu: the native implementation for CPU tensors in float32 and bfloat16. Those of GPUs are in ``ops/gpu.py``.
        reference: the definition in plain PyTorch: float64, ``MONOSEM_BACKEND=reference``, GPUs without Triton.
        fake: output shapes from input shapes, for ``torch.compile``.
        backward, setup: as in ``torch.library.register_autograd``.
    """
    name = schema[: schema.index("(")]

    def exact(args: tuple) -> bool:
        return any(isinstance(a, torch.Tensor) and a.dtype == torch.float64 for a in args)

    def on_cpu(*args):
        if exact(args):
            return reference(*args)
        if gpu.interpreted():
            return gpu.call(name, reference, args)
        return cpu(*args) if backend.use_native() else reference(*args)

    def on_gpu(*args):
        return reference(*args) if exact(args) else gpu.call(name, reference, args)

    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, as_given(on_cpu), "CPU")
    _LIBRARY.impl(name, as_given(on_gpu), "CUDA")
    torch.library.register_fake(f"monosem::{name}", fake, lib=_LIBRARY)
    if backward is not None:
        torch.library.register_autograd(f"monosem::{name}", backward, setup_context=setup, lib=_LIBRARY)
    return getattr(torch.ops.monosem, name).default
