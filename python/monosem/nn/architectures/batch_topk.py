"""BatchTopK: k active features per token on average over a batch (Bussmann et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from monosem.nn.activations import BatchThreshold, BatchTopK
from monosem.nn.architectures.topk import TopKSAE, aux_of
from monosem.nn.composition import Composition
from monosem.nn.config import TopKConfig
from monosem.nn.registry import register


@dataclass(frozen=True)
class BatchTopKConfig(TopKConfig):
    """A BatchTopK autoencoder; the fields are those of ``TopKConfig``, ``k`` being a mean over tokens."""

    kind: ClassVar[str] = "batch_topk"

    @property
    def title(self) -> str:
        return "BatchTopK"


@register
class BatchTopKSAE(TopKSAE):
    r"""``f``: the N·k largest positive of ``W_enc·(x − b_dec) + b_enc`` over N tokens; ``L = mean (x − x̂)² + α·L_aux``.

    A token that needs more features than another gets them. ``loss`` and training choose over the batch; ``encode`` and
    ``forward`` take a token by itself: the features above ``threshold``, a running mean of the smallest value that
    batches used, which a training step (or ``loss``, while ``training`` is set) updates and files keep. Before the
    first it is 0. AuxK and initialisation as in ``TopKSAE``.

    Source: Bussmann et al. 2024 (arXiv 2412.06410).
    """

    Config = BatchTopKConfig

    def extend(self, device: torch.device | str | None, dtype: torch.dtype) -> None:
        self.batches = BatchThreshold(device, dtype)

    @property
    def threshold(self) -> torch.Tensor:
        """What the value of an active feature exceeds at inference, 0-dim."""
        return self.batches.threshold

    @property
    def composition(self) -> Composition:
        return Composition(BatchTopK(self.cfg.k_at(self.progress), self.batches), revival=aux_of(self.cfg))
