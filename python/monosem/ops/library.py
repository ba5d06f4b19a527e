"""Registration with PyTorch: one call an operation gives it a schema, a kernel per device, a shape rule, gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch

from monosem.ops import backend

_LIBRARY = torch.library.Library("monosem", "DEF")


def register(
    schema: str, *, cpu: Callable, reference: Callable, fake: Callable, backward: Callable | None = None,
    setup: Callable | None = None,
) -> Callable:  # fmt: skip
    """Define ``monosem::<schema>`` and return the callable.

    Args:
        cpu: the native implementation for CPU tensors in float32 and bfloat16.
        reference: the definition in plain PyTorch: float64, other devices, ``MONOSEM_BACKEND=reference``.
        fake: output shapes from input shapes, for ``torch.compile``.
        backward, setup: as in ``torch.library.register_autograd``.
    """
    name = schema[: schema.index("(")]

    def on_cpu(*args):
        exact = any(isinstance(a, torch.Tensor) and a.dtype == torch.float64 for a in args)
        return reference(*args) if exact or not backend.use_native() else cpu(*args)

    def elsewhere(*args):
        backend.warn_device(torch.utils._pytree.tree_leaves(args)[0].device.type)
        return reference(*args)

    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, on_cpu, "CPU")
    _LIBRARY.impl(name, elsewhere, "CUDA")
    torch.library.register_fake(f"monosem::{name}", fake, lib=_LIBRARY)
    if backward is not None:
        torch.library.register_autograd(f"monosem::{name}", backward, setup_context=setup, lib=_LIBRARY)
    return getattr(torch.ops.monosem, name).default
