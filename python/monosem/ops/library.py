"""Registration with PyTorch: one call per operation gives it a schema, a kernel per device, a shape rule, gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch

from monosem.ops import backend, gpu
from monosem.ops.precision import as_given

_LIBRARY = torch.library.Library("monosem", "DEF")


def register(
    schema: str,
    *,
    folder: str,
    cpu: Callable,
    reference: Callable,
    fake: Callable,
    backward: Callable | None = None,
    setup: Callable | None = None,
    on_gpu: tuple[str, ...] = ("triton", "cuda"),
    pack: Callable[[Callable], Callable] = lambda kernel: kernel,
) -> Callable:
    """Define ``monosem::<schema>`` and return the callable that PyTorch made of it, for the operation's ``def``.

    Args:
        folder: the package of the operation. ``<folder>.triton`` and ``<folder>.cuda`` hold a function of the
            operation's name for GPU tensors; they are imported when first used.
        cpu: the native implementation for CPU tensors in float32 and bfloat16.
        reference: the definition in plain PyTorch: float64, ``MONOSEM_BACKEND=reference``, GPUs without Triton.
        fake: output shapes from input shapes, for ``torch.compile``.
        backward, setup: as in ``torch.library.register_autograd``.
        on_gpu: which of Triton and CUDA have it.
        pack: makes of an implementation that takes structs one that takes the schema's arguments.
    """
    name = schema[: schema.index("(")]
    gpu.IMPLEMENTATIONS[name] = {kind: f"{folder}.{kind}:{name}" for kind in on_gpu}
    gpu.PACKED[name] = pack
    native, definition = pack(cpu), pack(reference)

    def exact(args: tuple) -> bool:
        return any(isinstance(a, torch.Tensor) and a.dtype == torch.float64 for a in args)

    def of_cpu_tensors(*args):
        if exact(args):
            return definition(*args)
        if gpu.interpreted():
            return gpu.call(name, definition, args)
        return native(*args) if backend.use_native() else definition(*args)

    def of_gpu_tensors(*args):
        return definition(*args) if exact(args) else gpu.call(name, definition, args)

    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, as_given(of_cpu_tensors), "CPU")
    _LIBRARY.impl(name, as_given(of_gpu_tensors), "CUDA")
    torch.library.register_fake(f"monosem::{name}", fake, lib=_LIBRARY)
    if backward is not None:
        torch.library.register_autograd(f"monosem::{name}", backward, setup_context=setup, lib=_LIBRARY)
    return getattr(torch.ops.monosem, name).default
