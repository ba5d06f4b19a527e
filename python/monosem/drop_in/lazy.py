"""Tensors of tokens × features that are made only for whoever needs all of their numbers."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

_READ = {  # what does not depend on the numbers
    *(
        getattr(Tensor, name).__get__
        for name in ("shape", "dtype", "device", "layout", "ndim", "is_sparse", "is_cuda", "requires_grad", "is_leaf")
    ),
    *(getattr(Tensor, name) for name in ("size", "dim", "ndimension", "numel", "is_floating_point", "__len__")),
    Tensor.grad_fn.__get__,
    torch.is_tensor,
    torch.is_floating_point,
    torch.numel,
}

_READS_GRADIENTS = {torch.autograd.grad, Tensor.retain_grad, Tensor.register_hook}


class LazyTensor(Tensor):
    """A tensor whose numbers are known by less than themselves.

    A function that a class registers (``@handles``) uses what the numbers follow from. Every other function gets the
    dense tensor, which is made at the first such call and stays: from then on this object *is* that tensor, so that
    what is written into it, or into a view of it, is seen by all who hold it.

    Gradients: the dense tensor is a differentiable function of what it follows from. Functions of PyTorch's own that
    do not ask for overrides (``autograd.Function.apply``) see this object as the output of an operation whose backward
    pass takes a dense gradient. What a registered function has used lets no gradient through this object: reading its
    gradient afterwards is refused.
    """

    _handlers: dict[Callable, tuple[Callable[..., Any], inspect.Signature]]
    _dense: Tensor | None
    _bypassed: bool = False  # whether a gradient goes by what it follows from

    def __init_subclass__(cls) -> None:
        cls._handlers = {}

    @classmethod
    def handles(cls, *functions: Callable) -> Callable[[Callable], Callable]:
        """Register what happens instead of functions of PyTorch, called with their arguments.

        ``NotImplemented`` as the result means that the dense tensor is needed after all; so it is for arguments that
        the handler has no parameters for, such as ``out=`` or another name of one.
        """

        def register(handler: Callable) -> Callable:
            cls._handlers.update(dict.fromkeys(functions, (handler, inspect.signature(handler))))
            return handler

        return register

    @staticmethod
    def wrapper(cls: type[LazyTensor], shape: tuple[int, ...], like: Tensor) -> LazyTensor:
        """An object of ``cls`` without numbers. Its attributes are set by the caller."""
        made = Tensor._make_wrapper_subclass(cls, shape, dtype=like.dtype, device=like.device)
        made._dense = None
        return made

    @abstractmethod
    def make_dense(self) -> Tensor: ...

    @property
    def is_lazy(self) -> bool:
        """Whether the dense tensor has not been made."""
        return self._dense is None

    def dense(self) -> Tensor:
        """The dense tensor, the same at every call. Differentiable, even if first asked for where no gradients are."""
        if self._dense is None:
            with torch.enable_grad():
                self._dense = self.make_dense()
        return self._dense

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _READ and all(a.is_lazy for a in args if isinstance(a, LazyTensor)):
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        for lazy in (a for a in args if isinstance(a, LazyTensor) and a.is_lazy):
            result = type(lazy)._handled(func, args, kwargs)
            if result is not NotImplemented:
                return result
        if func in _READS_GRADIENTS:
            tree_map_only(LazyTensor, LazyTensor._check_gradient, (args, kwargs))
        args, kwargs = tree_map_only(LazyTensor, LazyTensor.dense, (args, kwargs))
        return func(*args, **kwargs)

    def _check_gradient(self) -> None:
        if self._bypassed:
            raise RuntimeError(
                f"{type(self).__name__}: got a request for their gradient after they were used without the dense "
                "tensor, which their gradient does not pass; wanted it before. Call retain_grad() on them first: "
                "they are dense from then on."
            )

    @classmethod
    def _handled(cls, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        handler, signature = cls._handlers.get(func, (None, None))
        if handler is None or signature is None:
            return NotImplemented
        try:
            signature.bind(*args, **kwargs)
        except TypeError:
            return NotImplemented
        result = handler(*args, **kwargs)
        if any(isinstance(r, Tensor) and r.requires_grad for r in (result if isinstance(result, tuple) else [result])):
            for lazy in (a for a in args if isinstance(a, LazyTensor)):
                lazy._bypassed = True
        return result

    @classmethod
    def __torch_dispatch__(
        cls, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = tree_map_only(LazyTensor, lambda lazy: lazy.dense().detach(), (args, kwargs or {}))
        return func(*args, **kwargs)
