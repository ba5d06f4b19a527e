"""Tensors of tokens × features that are made only for whoever needs all of their numbers."""

from __future__ import annotations

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


class LazyTensor(Tensor):
    """A tensor whose numbers are known by less than themselves.

    A function that a class registers (``@handles``) uses what the numbers follow from. Every other function gets the
    dense tensor, which is made at the first such call and stays: from then on this object *is* that tensor, so that
    what is written into it, or into a view of it, is seen by all who hold it.

    Gradients: the dense tensor is a differentiable function of what it follows from. Functions of PyTorch's own that
    do not ask for overrides (``autograd.Function.apply``) see this object as the output of an operation whose backward
    pass takes a dense gradient.
    """

    _handlers: dict[Callable, Callable[..., Any]]
    _dense: Tensor | None

    def __init_subclass__(cls) -> None:
        cls._handlers = {}

    @classmethod
    def handles(cls, *functions: Callable) -> Callable[[Callable], Callable]:
        """Register what happens instead of functions of PyTorch, called with their arguments.

        ``NotImplemented`` as the result means that the dense tensor is needed after all.
        """

        def register(handler: Callable) -> Callable:
            cls._handlers.update(dict.fromkeys(functions, handler))
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
        if func in _READ:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        for lazy in (a for a in args if isinstance(a, LazyTensor) and a.is_lazy):
            handler = type(lazy)._handlers.get(func)
            result = NotImplemented if handler is None else handler(*args, **kwargs)
            if result is not NotImplemented:
                return result
        args, kwargs = tree_map_only(LazyTensor, LazyTensor.dense, (args, kwargs))
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(
        cls, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = tree_map_only(LazyTensor, lambda lazy: lazy.dense().detach(), (args, kwargs or {}))
        return func(*args, **kwargs)
