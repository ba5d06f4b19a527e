"""The gradient of a batch, in slices that threads work on side by side.

Where each operation is shared among threads, all wait for the slowest after every one of them, hundreds of times per
step; on a machine that does other work too, most of the time goes there. Here each thread takes a whole slice, alone,
and they meet once per step. How a batch is cut and in which order its slices are added does not depend on the threads,
so that the bits do not either; only where there are more threads than slices do several share the operations of one.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from monosem.data.language_model import Transformer, next_token_loss

CONTEXTS = 8  # of a slice: a default batch makes four


class Slices:
    """Threads for a model's gradients, as many as PyTorch has; within ``with`` it has those of one slice.

    Args:
        model: whose ``grad`` fields are written.
        contexts: of a batch.
    """

    def __init__(self, model: Transformer, contexts: int) -> None:
        self._model, self._parameters = model, list(model.parameters())
        self._threads, self._slices = torch.get_num_threads(), -(-contexts // CONTEXTS)
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Slices:
        side_by_side, each = min(self._threads, self._slices), max(1, self._threads // self._slices)
        if side_by_side > 1:
            self._pool = ThreadPoolExecutor(side_by_side, "slice", torch.set_num_threads, (each,))
        torch.set_num_threads(each)
        return self

    def __exit__(self, *_) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        torch.set_num_threads(self._threads)

    def backward(self, rows: Tensor) -> float:
        """Mean nats per token of rows [B, n_ctx + 1]; the gradients of that replace what ``grad`` held."""
        slices = rows.split(CONTEXTS)
        made = (self._pool.map if self._pool else map)(self._one, slices)
        loss = 0.0
        sums: list[Tensor] = []
        for part, (nats, gradients) in zip(slices, made, strict=True):
            share = len(part) / len(rows)
            loss += nats * share
            if not sums:
                sums = [g.mul_(share) for g in gradients]
            else:
                torch._foreach_add_(sums, gradients, alpha=share)  # pyright: ignore[reportPrivateImportUsage]
        for parameter, gradient in zip(self._parameters, sums, strict=True):
            parameter.grad = gradient
        return loss

    def _one(self, rows: Tensor) -> tuple[float, tuple[Tensor, ...]]:
        loss = next_token_loss(self._model, rows)
        return loss.item(), torch.autograd.grad(loss, self._parameters)
