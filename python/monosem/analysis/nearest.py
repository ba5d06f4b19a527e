"""The nearest directions of each direction, exactly, however many there are."""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm import tqdm

from monosem import ops


@torch.no_grad()
def nearest(directions: Tensor, count: int, bar: tqdm | None = None, block: int = 1024) -> tuple[Tensor, Tensor]:
    """(features, cosines), each [F, count]: for each direction the others of largest cosine, the largest first.

    Scores are selected tile by tile, as TopK features are. Where no cosine is positive the entry has cosine 0.
    """
    w = directions.detach().float().cpu()
    w = w / w.norm(dim=1, keepdim=True).clamp_min(1e-12)
    zero, count = torch.zeros(len(w), dtype=torch.float32, device="cpu"), min(count, len(w) - 1)
    ids, values = [], []
    for start in range(0, len(w), block):
        code = ops.topk_encode(w[start : start + block], w, zero, count + 1)
        own = torch.arange(start, start + len(code.values), device="cpu")[:, None]
        score = torch.where(code.indices == own, -1.0, code.values)
        order = torch.argsort(score, dim=1, descending=True, stable=True)[:, :count]
        ids.append(code.indices.gather(1, order))
        values.append(score.gather(1, order).clamp_min(0))
        if bar is not None:
            bar.update(len(own))
    return torch.cat(ids), torch.cat(values)
