"""The units in which features are shown: a value is a length in the reconstruction, a decoder row is a direction."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from monosem import ops
from monosem.nn import SAE, ComposedSAE
from monosem.nn.config import JsonDict, SAEConfig
from monosem.nn.dictionary import Dictionary
from monosem.ops import SparseCode

NEGATIVE_SIDE = ", negative side"


class Rescaled:
    """A dictionary in which the value of each feature is multiplied by a factor, and its decoder row divided by it.

    The reconstruction is the same.

    Attributes:
        W_dec, W_enc_rows, b_enc: those of the dictionary, scaled: ``W_enc·x + b_enc`` is in the units of the values.
    """

    cfg: SAEConfig
    metadata: JsonDict

    def __init__(self, sae: SAE | Rescaled, factors: Tensor, decoder: Tensor) -> None:
        self._sae, self.cfg, self.metadata, self.b_dec = sae, sae.cfg, sae.metadata, sae.b_dec.detach()
        self._factors, self.W_dec = factors, decoder
        with torch.no_grad():
            self.b_enc = sae.b_enc * factors

    @property
    def W_enc_rows(self) -> Tensor:
        return self._sae.W_enc_rows.detach() * self._factors[:, None]

    def prepare(self) -> Rescaled:
        """As ``SAE.prepare``."""
        self._sae.prepare()
        return self

    def encode(self, x: Tensor) -> SparseCode:
        """The active features of x [..., d_in], with values in these units."""
        code = self._sae.encode(x)
        return replace(code, values=code.values * self._factors[code.indices.long()])

    def decode(self, code: SparseCode) -> Tensor:
        """The reconstruction [..., d_out] of a code that ``encode`` gave."""
        return ops.decode(code, self.W_dec, self.b_dec)

    def __call__(self, x: Tensor) -> Tensor:
        return self._sae(x)

    def state_dict(self) -> Mapping[str, Any]:
        """The parameters as they were trained: the fingerprint of a dictionary does not depend on its units."""
        return self._sae.state_dict()


class UnitRows(Rescaled):
    """A dictionary with free norms in comparable units: the values are ``f·‖W_dec‖``, the decoder rows unit.

    An activation, its maximum, a multiple of it, a logit weight or an encoder bias can then be compared between
    features, and with those of a dictionary whose rows are kept unit. A row of zeros stays one, with values of 0.
    """

    @torch.no_grad()
    def __init__(self, sae: SAE) -> None:
        norms = torch.linalg.vector_norm(sae.W_dec, dim=1, dtype=torch.float32).to(sae.W_dec.dtype)
        super().__init__(sae, norms, sae.W_dec / norms.clamp(min=torch.finfo(sae.W_dec.dtype).tiny)[:, None])


class NegativeSide(Rescaled):
    """A dictionary whose features may be below 0, with the sign of each turned: values −f, decoder rows −W_dec.

    Analyses read the positive entries of a code. Here those are the entries that are below 0 in the dictionary itself:
    its features in their other direction. ``kind`` says so on pages and in results, and an index of one side is not one
    of the other.

    Raises:
        ValueError: a kind whose features are never below 0.
    """

    def __init__(self, sae: Dictionary) -> None:
        inner = sae._sae if isinstance(sae, Rescaled) else sae
        positive = isinstance(inner, ComposedSAE) and inner.composition.activation.is_positive
        if positive or not isinstance(sae, (SAE, Rescaled)):
            raise ValueError(
                f"sae: got {sae.cfg.describe()}, whose features are never below 0; wanted one with entries of both "
                "signs, such as AbsTopK. Leave the prefix 'negative:' out."
            )
        decoder = -sae.W_dec.detach()
        super().__init__(sae, decoder.new_full((len(decoder),), -1.0), decoder)
        self.cfg = copy(sae.cfg)
        object.__setattr__(self.cfg, "kind", sae.cfg.kind + NEGATIVE_SIDE)  # of the class otherwise; frozen


def side_of(kind: str) -> str:
    """What a title adds for the kind of a dictionary: that it is a negative side."""
    return NEGATIVE_SIDE if kind.endswith(NEGATIVE_SIDE) else ""


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
