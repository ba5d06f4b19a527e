"""The gradient of a batch, in slices that threads compute in parallel.

Where threads share each operation, they synchronise after each of them, hundreds of times per step, which takes most of
the time on a machine with other work. Here each thread computes a complete slice by itself, and they synchronise once
per step. The cut of a batch and the order in which its slices are added do not depend on the number of threads, so
neither do the bits. Several threads share the operations of a slice only where there are more threads than slices.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from monosem.data.language_model import Transformer, next_token_loss

CONTEXTS = 8  # per slice: a default batch has four slices


class Slices:
    """A pool of as many threads as PyTorch has; within ``with``, PyTorch itself has those of one slice.

    Args:
        model: whose ``grad`` fields are written.
        contexts: number of them per batch.
        products: precision of the unembedding's products (see :func:`monosem.data.head_loss.head_loss`).
    """

    def __init__(self, model: Transformer, contexts: int, products: torch.dtype = torch.float32) -> None:
        self._products = products
        self._model, self._parameters = model, list(model.parameters())
        self._threads, self._slices = torch.get_num_threads(), -(-contexts // CONTEXTS)
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Slices:
        parallel, per_slice = min(self._threads, self._slices), max(1, self._threads // self._slices)
        if parallel > 1:
            self._pool = ThreadPoolExecutor(parallel, "slice", torch.set_num_threads, (per_slice,))
        torch.set_num_threads(per_slice)
        return self

    def __exit__(self, *_) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        torch.set_num_threads(self._threads)

    def backward(self, rows: Tensor) -> float:
        """Mean nats per token of rows [B, n_ctx + 1]; the gradients of that replace what ``grad`` held."""
        slices = rows.split(CONTEXTS)
        results = (self._pool.map if self._pool else map)(self._one, slices)
        loss = 0.0
        sums: list[Tensor] = []
        for part, (nats, gradients) in zip(slices, results, strict=True):
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
        loss = next_token_loss(self._model, rows, self._products)
        return loss.item(), torch.autograd.grad(loss, self._parameters)
