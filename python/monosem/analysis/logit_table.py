"""Logit weights of many features at many tokens, whatever the width: as a table where it fits, else entry by entry."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.data.protocols import LanguageModel
from monosem.nn.dictionary import Dictionary
from monosem.ops.precision import as_given


class LogitTable:
    """w[i, v] = d_i · (path from the hook to the logits)_v − its median over the used vocabulary.

    *Towards Monosemanticity*, "Logit Weights"; the softmax does not see the shift.

    Args:
        used: bool [d_vocab], the entries that the median is taken over, and that :meth:`rows` gives.
        memory: bytes that a table [d_sae, d_vocab] may take; beyond it each weight is computed on request.
    """

    @torch.no_grad()
    @as_given
    def __init__(
        self, sae: Dictionary, model: LanguageModel, hook_name: str, used: Tensor, memory: int = 1 << 29
    ) -> None:
        self.directions = model.logit_directions(hook_name).float().cpu()
        self.decoder = sae.W_dec.detach().float().cpu()
        self.ids = used.nonzero().flatten()
        if len(self.ids) < 2:
            raise ValueError(f"used: got {len(self.ids)} entries of the vocabulary; wanted at least 2")
        d_sae, d_vocab = len(self.decoder), self.directions.shape[1]
        kept = 4 * d_sae * d_vocab <= memory
        table = torch.empty(d_sae if kept else 0, d_vocab, dtype=torch.float32, device="cpu")
        self.table = table if kept else None
        self.used = self.directions[:, self.ids]
        # NaN until the feature is used.
        self.median = torch.full((d_sae,), torch.nan, dtype=torch.float32, device="cpu")
        for part in torch.arange(d_sae, device="cpu").split(512) if kept else ():
            table[part] = self.decoder[part] @ self.directions - self._median(part)[:, None]

    @as_given
    def _median(self, features: Tensor) -> Tensor:
        """The median of each feature's weights over the used vocabulary, computed at first use: [n]."""
        new = features[self.median[features].isnan()].unique()
        for part in new.split(512):
            self.median[part] = (self.decoder[part] @ self.used).median(1).values
        return self.median[features]

    def at(self, features: Tensor, tokens: Tensor, block: int = 1 << 15) -> Tensor:
        """Weights of pairs (feature, token): [n]."""
        if self.table is not None:
            return self.table.view(-1)[features * self.table.shape[1] + tokens]
        out = torch.empty(len(features), dtype=torch.float32, device="cpu")
        for start in range(0, len(features), block):
            part = slice(start, start + block)
            dots = (self.decoder[features[part]] * self.directions.T[tokens[part]]).sum(1)
            out[part] = dots - self._median(features[part])
        return out

    @as_given
    def rows(self, features: Tensor) -> Tensor:
        """Weights of features over the used vocabulary: [n, used]."""
        if self.table is not None:
            return self.table[features][:, self.ids]
        return self.decoder[features] @ self.used - self._median(features)[:, None]

    def top(self, feature: int, count: int) -> list[tuple[int, float]]:
        """The tokens of the used vocabulary that a feature raises most: (id, weight)."""
        w = self.rows(torch.tensor([feature], dtype=torch.int64, device="cpu"))[0]
        best = w.topk(min(count, len(w)))
        return [(int(self.ids[i]), v) for v, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
