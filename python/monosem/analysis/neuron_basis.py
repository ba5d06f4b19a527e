"""The neurons themselves as a dictionary: the baseline of every analysis of features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from monosem.nn.config import SAEConfig
from monosem.ops import SparseCode


@dataclass(frozen=True)
class NeuronConfig(SAEConfig):
    """``d_sae`` equals ``d_in``: one feature per neuron."""

    kind: ClassVar[str] = "neurons"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d_sae != self.d_in:
            raise ValueError(f"d_sae: got {self.d_sae}; wanted d_in={self.d_in}, one feature per neuron")


class NeuronBasis:
    """``f = ReLU(x)``, ``x̂ = f``: feature i is neuron i, its decoder row the i-th unit vector.

    It has what the analyses ask of an autoencoder (``cfg``, ``encode``, ``decode``, ``W_dec``, ``metadata``), so that
    neurons go through the same code as features. After a ReLU, x̂ = x; where activations may be negative (GELU, the
    residual stream) only their positive part counts.

    Args:
        d_in: number of neurons.
    """

    def __init__(self, d_in: int, device: torch.device | str = "cpu") -> None:
        self.cfg = NeuronConfig(d_in, d_in)
        self.metadata: dict[str, Any] = {}
        self.W_dec = torch.eye(d_in, device=device, dtype=torch.float32)
        self.b_dec = torch.zeros(d_in, device=device, dtype=torch.float32)

    @property
    def W_enc_rows(self) -> Tensor:
        return self.W_dec

    def encode(self, x: Tensor) -> SparseCode:
        """The neurons with a positive activation, of x [..., d_in], in CSR form."""
        if x.shape[-1:] != (self.cfg.d_in,):
            raise ValueError(f"x: got shape {list(x.shape)}; wanted [..., d_in={self.cfg.d_in}]")
        flat = x.reshape(-1, self.cfg.d_in)
        on = flat > 0
        offsets = torch.zeros(len(flat) + 1, dtype=torch.int64, device=x.device)
        torch.cumsum(on.sum(1), 0, out=offsets[1:])
        return SparseCode(flat[on], on.nonzero()[:, 1].int(), offsets, self.cfg.d_sae, x.shape[:-1])

    def decode(self, code: SparseCode) -> Tensor:
        """``x̂ = f``: [..., d_in]."""
        return code.to_dense() + self.b_dec

    def __call__(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))
