"""The interface by which analyses read a dictionary, whatever its class."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from monosem.nn.config import JsonDict, SAEConfig
from monosem.ops import SparseCode


class Dictionary(Protocol):
    """F features of activations of width D: an ``SAE``, or another class with the same methods (the neurons).

    Attributes:
        cfg: ``d_in``, ``d_sae``, ``kind`` and the settings of the kind.
        metadata: facts that are saved with it, for JSON: the model, the hook, the data.
        W_enc_rows, W_dec: one row per feature, [d_sae, d_in].
        b_dec: [d_in].
    """

    metadata: JsonDict

    @property
    def cfg(self) -> SAEConfig: ...

    @property
    def W_enc_rows(self) -> Tensor: ...

    @property
    def W_dec(self) -> Tensor: ...

    @property
    def b_dec(self) -> Tensor: ...

    def encode(self, x: Tensor) -> SparseCode:
        """The active features of x [..., d_in]."""
        ...

    def decode(self, code: SparseCode) -> Tensor:
        """The reconstruction [..., d_in] of a code."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """The reconstruction of x [..., d_in]."""
        ...
