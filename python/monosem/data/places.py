"""One side of a module of a model, as a place to read and to write: its input or its output.

``model.layers.3.mlp`` is the output of that module, ``model.layers.3.mlp:in`` its input. Of several tensors that go in
or come out, the first of floating point is meant: the hidden states, beside masks, positions and attention weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

INPUT = ":in"  # behind the name of a module
_HIDDEN = "hidden_states"  # an argument by this name goes before others


@dataclass(frozen=True)
class Place:
    """The input or the output of the module of this name."""

    module: str
    is_input: bool = False

    def __str__(self) -> str:
        return self.module + INPUT * self.is_input

    def attach(self, root: nn.Module, hook: Callable[[Tensor], Tensor | None]) -> Any:
        """Call ``hook`` with the tensor at each forward pass; what it returns takes its place. Returns the handle."""
        part = root.get_submodule(self.module)
        if self.is_input:
            return part.register_forward_pre_hook(_before(hook), with_kwargs=True)
        return part.register_forward_hook(_after(hook))


def input_of(args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    """The tensor that is a module's input, or None where it takes no tensor of floating point."""
    key = _key(args, kwargs)
    return None if key is None else args[key] if isinstance(key, int) else kwargs[key]


def output_of(output: Any) -> Tensor | None:
    """The tensor that is a module's output: itself, or the first of a tuple."""
    first: Any = output[0] if isinstance(output, (tuple, list)) and output else output
    return first if _is_floating(first) else None


def by_token(value: Tensor, shape: torch.Size) -> Tensor | None:
    """A tensor of one vector per token as [B, T, …], for tokens of this shape; rows may be laid end to end, as in OPT.

    None where it is another tensor.
    """
    if value.ndim >= 3 and value.shape[:2] == shape:
        return value
    return value.view(*shape, -1) if value.ndim == 2 and len(value) == shape.numel() else None


def _key(args: tuple, kwargs: dict[str, Any]) -> int | str | None:
    for i, value in enumerate(args):
        if _is_floating(value):
            return i
    return next((name for name in (_HIDDEN, *kwargs) if _is_floating(kwargs.get(name))), None)


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _before(hook: Callable[[Tensor], Tensor | None]) -> Callable:
    def before(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        value = input_of(args, kwargs)
        changed = None if value is None else hook(value)
        if changed is None:
            return None
        key = _key(args, kwargs)
        if isinstance(key, int):
            return (*args[:key], changed, *args[key + 1 :]), kwargs
        return args, kwargs | {str(key): changed}

    return before


def _after(hook: Callable[[Tensor], Tensor | None]) -> Callable:
    def after(_module: nn.Module, _args: tuple, output: Any) -> Any:
        value = output_of(output)
        changed = None if value is None else hook(value)
        if changed is None or not isinstance(output, (tuple, list)):
            return changed
        return type(output)([changed, *output[1:]])

    return after
