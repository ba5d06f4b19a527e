"""A sparse result is a type: the active features of every token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from monosem.ops import backend


@dataclass(frozen=True)
class SparseCode:
    """The active features of tokens of any leading shape.

    Either every token has the same number K of entries (TopK: ``values`` and ``indices`` are [..., K] and ``offsets``
    is None), or they are in CSR form (``values`` and ``indices`` are [nnz], the entries of token n stand at
    ``offsets[n]:offsets[n + 1]``). A TopK entry whose value is 0 is not active (its pre-activation was ≤ 0).

    Attributes:
        values: feature activations, in the dtype of the input; differentiable. Below 0 only in ``nn.AbsTopK``.
        indices: feature of each entry, int32.
        offsets: int64 [N + 1] or None.
        d_sae: number of features.
        shape: leading shape of the input, ``()`` for a single token.
    """

    values: Tensor
    indices: Tensor
    offsets: Tensor | None
    d_sae: int
    shape: torch.Size

    @property
    def n_tokens(self) -> int:
        return self.shape.numel()

    def csr(self) -> tuple[Tensor, Tensor, Tensor]:
        """``(values [nnz], indices [nnz], offsets [N + 1])``, whichever form the code has."""
        if self.offsets is not None:
            return self.values, self.indices, self.offsets
        k = self.values.shape[-1]
        offsets = uniform_offsets(self.n_tokens, k, self.values.device)
        return self.values.reshape(-1), self.indices.reshape(-1), offsets

    def row_ids(self) -> Tensor:
        """Token of each entry, int64 [nnz]; tokens are numbered over the flattened leading shape."""
        values, _, offsets = self.csr()
        return row_ids(offsets, values.numel())

    def to_dense(self) -> Tensor:
        """[..., d_sae] with zeros where nothing fires. Differentiable; of size tokens × features."""
        values, indices, offsets = self.csr()
        flat = row_ids(offsets, values.numel()) * self.d_sae + indices.long()
        dense = values.new_zeros(self.n_tokens * self.d_sae).index_put((flat,), values, accumulate=True)
        return dense.view(*self.shape, self.d_sae)

    def l0(self) -> Tensor:
        """Mean number of active features per token, 0-dim float32 (NaN when there is no token)."""
        return (
            (self.values != 0).sum(dtype=torch.float32) / self.n_tokens
            if self.n_tokens
            else torch.tensor(torch.nan, dtype=torch.float32, device=self.values.device)
        )

    def l1(self) -> Tensor:
        """Mean over tokens of Σ|f|, 0-dim (0 when there is no token and the code is in CSR form)."""
        if self.offsets is None:
            return self.values.abs().sum(-1).mean()
        return self.values.abs().sum() / max(1, self.n_tokens)

    def fired(self) -> Tensor:
        """Which features are active on at least one token, bool [d_sae]; unlike counting, it never waits for a GPU."""
        values, indices, _ = self.csr()
        if values.device.type == "cpu":  # counting is twenty times as fast there as marking
            active = torch.bincount(indices, weights=(values != 0).float(), minlength=self.d_sae + 1)
            return active[: self.d_sae] > 0
        # Entries that are not active mark a place behind the last feature.
        marks = torch.zeros(self.d_sae + 1, dtype=torch.bool, device=values.device)
        return marks.index_fill_(0, torch.where(values != 0, indices.long(), self.d_sae), True)[:-1]

    def statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        """``(l0(), l1(), fired())``, on a CPU in one pass."""
        v = self.values
        one_pass = v.device.type == "cpu" and v.dtype == torch.float32 and self.n_tokens and backend.use_native()
        if not one_pass or (v.requires_grad and torch.is_grad_enabled()):
            return self.l0(), self.l1(), self.fired()
        values, indices = v.detach().reshape(-1).contiguous(), self.indices.reshape(-1).contiguous()
        fired = torch.empty(self.d_sae, dtype=torch.uint8, device="cpu")
        size, active = backend.native.code_sums(values=values, indices=indices, features=self.d_sae, fired=fired)
        means = torch.tensor([active, size], dtype=torch.float32, device="cpu") / self.n_tokens
        return means[0], means[1], fired.view(torch.bool)

    def active_counts(self) -> Tensor:
        """Number of tokens on which each feature is active, int64 [d_sae]."""
        values, indices, _ = self.csr()
        return torch.bincount(indices[values != 0].long(), minlength=self.d_sae)


def uniform_offsets(n: int, k: int, device: torch.device) -> Tensor:
    """Offsets of n tokens with k entries each: int64 [n + 1]."""
    return torch.arange(n + 1, device=device, dtype=torch.int64) * k


def row_ids(offsets: Tensor, nnz: int) -> Tensor:
    """Token of each CSR entry: int64 [nnz]."""
    tokens = torch.arange(len(offsets) - 1, device=offsets.device)
    return torch.repeat_interleave(tokens, offsets.diff(), output_size=nnz)
