"""The random weights of a new autoencoder: drawn, or left as they are where they will be read from a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar, Token
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_LEFT: ContextVar[bool] = ContextVar("weights are left as they are", default=False)


def are_drawn() -> bool:
    """Whether weights are to be drawn, as ever but within ``Undrawn``: else work on them would be for nothing."""
    return not _LEFT.get()


class Undrawn(TorchFunctionMode):
    """Within it, weights are not drawn: they stay as they are. Those of a kind that does not ask ``are_drawn`` too."""

    _DRAWS = (nn.init.normal_, nn.init.uniform_, torch.Tensor.normal_, torch.Tensor.uniform_)
    _token: Token[bool]

    def __enter__(self) -> Undrawn:
        self._token = _LEFT.set(True)
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        _LEFT.reset(self._token)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self._DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
