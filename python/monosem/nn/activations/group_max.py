"""The largest of each group of features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from monosem.nn.activations.base import Activation, Vectors
from monosem.ops import SparseCode, checks
from monosem.ops.capacity import EncoderInputs, block_bytes
from monosem.ops.precision import as_given
from monosem.ops.selection.gradients import chosen_preactivations


@dataclass(frozen=True)
class GroupMax(Activation):
    """The features stand in ``groups`` groups of neighbours; ReLU of the largest of each, k = ``groups`` per token.

    Among equal ones the lowest feature. Source: EleutherAI's sparsify, ``activation="groupmax"``.
    """

    is_homogeneous: ClassVar[bool] = True
    groups: int

    def encode(self, inputs: EncoderInputs, vectors: Vectors | None = None) -> SparseCode:
        d_sae, shape = len(inputs.w), inputs.x.shape[:-1]
        checks.shape("x", inputs.x.reshape(-1, inputs.x.shape[-1]), ("tokens", inputs.w.shape[1]))
        x = inputs.x.reshape(-1, inputs.x.shape[-1])
        indices = _largest(x.detach(), inputs.w.detach(), inputs.b.detach(), self.groups)
        values = chosen_preactivations(x, inputs.w, inputs.b, indices).relu()
        return SparseCode(values.view(*shape, self.groups), indices.view(*shape, self.groups), None, d_sae, shape)

    def held(self, rows: slice, d_sae: int) -> GroupMax:
        size = d_sae // self.groups
        assert not (rows.start % size or rows.stop % size)  # train/distributed/kinds.py
        return GroupMax((rows.stop - rows.start) // size)

    def through(self, values: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
        return torch.where(values > 0, slopes, 0)


@as_given
def _largest(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, groups: int) -> torch.Tensor:
    """The feature with the largest pre-activation in each group, int32 [N, groups]; a block of groups at a time."""
    n, size = len(x), len(w) // groups
    step = max(1, block_bytes(x.device) // max(1, x.element_size() * size * max(1, n)))
    parts = []
    for first in range(0, groups, step):
        here = slice(first * size, min(first + step, groups) * size)
        h = torch.addmm(b[here], x, w[here].T).view(n, -1, size)
        within = (h == h.amax(-1, keepdim=True)).to(torch.uint8).argmax(-1)  # the first of equal ones
        parts.append(within + torch.arange(here.start, here.stop, size, device=x.device))
    return torch.cat(parts, 1).int()
