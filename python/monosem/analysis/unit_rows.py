"""The units in which features are shown: a value is a length in the reconstruction, a decoder row is a direction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from monosem import ops
from monosem.nn import SAE
from monosem.nn.config import JsonDict, SAEConfig
from monosem.nn.dictionary import Dictionary
from monosem.ops import SparseCode


class UnitRows:
    """A dictionary with free norms in comparable units: the values are ``f·‖W_dec‖``, the decoder rows unit.

    The reconstruction is the same. An activation, its maximum, a multiple of it, a logit weight or an encoder bias can
    then be compared between features, and with those of a dictionary whose rows are kept unit. A row of zeros stays
    one, and its values become 0.

    Attributes:
        W_dec, W_enc_rows, b_enc: those of the dictionary, scaled: ``W_enc·x + b_enc`` is in the units of the values.
    """

    cfg: SAEConfig
    metadata: JsonDict

    def __init__(self, sae: SAE) -> None:
        self._sae, self.cfg, self.metadata, self.b_dec = sae, sae.cfg, sae.metadata, sae.b_dec.detach()
        with torch.no_grad():
            norms = torch.linalg.vector_norm(sae.W_dec, dim=1, dtype=torch.float32)
            self._norms = norms.to(sae.W_dec.dtype)
            self.W_dec = sae.W_dec / self._norms.clamp(min=torch.finfo(sae.W_dec.dtype).tiny)[:, None]
            self.b_enc = sae.b_enc * self._norms

    @property
    def W_enc_rows(self) -> Tensor:
        return self._sae.W_enc_rows.detach() * self._norms[:, None]

    def prepare(self) -> UnitRows:
        """As ``SAE.prepare``."""
        self._sae.prepare()
        return self

    def encode(self, x: Tensor) -> SparseCode:
        """The active features of x [..., d_in], with values in units of length."""
        code = self._sae.encode(x)
        return replace(code, values=code.values * self._norms[code.indices.long()])

    def decode(self, code: SparseCode) -> Tensor:
        """The reconstruction [..., d_in] of a code that ``encode`` gave."""
        return ops.decode(code, self.W_dec, self.b_dec)

    def __call__(self, x: Tensor) -> Tensor:
        return self._sae(x)

    def state_dict(self) -> Mapping[str, Any]:
        """The parameters as they were trained: the fingerprint of a dictionary does not depend on its units."""
        return self._sae.state_dict()


def in_unit_rows(sae: Dictionary) -> Dictionary:
    """The dictionary as analyses show it: itself where its rows are kept unit, else :class:`UnitRows` of it."""
    return UnitRows(sae) if isinstance(sae, SAE) and not sae.has_unit_rows else sae


def check_reconstructs(sae: Dictionary) -> None:
    """Raise ValueError for a dictionary whose reconstruction cannot stand in for its input (a transcoder)."""
    if not sae.cfg.reconstructs_its_input:
        raise ValueError(
            f"sae: got {sae.cfg.kind}, which reconstructs another activation than it reads; wanted the model and hooks "
            "that load_subject gives, so that its output can take the place of that one."
        )
