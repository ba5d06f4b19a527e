"""Configurations of the autoencoders: small frozen dataclasses that are written to JSON and read back."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, ClassVar

from monosem.ops import checks


class DecoderNorm(str, Enum):
    """Whether rows of the decoder are kept unit, or have any norm."""

    UNIT = "unit"
    FREE = "free"

    @classmethod
    def named(cls, name: str) -> str:
        """The value of a name. Raises ValueError for one that is none."""
        if name not in (cls.UNIT.value, cls.FREE.value):
            raise ValueError(f"decoder_norm: got {name!r}; wanted 'unit' or 'free'")
        return cls(name).value


def check_number(name: str, value: Any, least: float, above: bool = False) -> None:
    """Raise unless a number is at least ``least``, or above it."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or value < least or (above and value == least):
        raise ValueError(f"{name}: got {value!r}; wanted a number {'above' if above else 'of at least'} {least:g}")


JsonDict = dict[str, Any]  # an object of a JSON file: its values have no static type


@dataclass(frozen=True)
class SAEConfig:
    """The settings that all autoencoders have.

    Attributes:
        d_in: width of the activations.
        d_sae: number of features.
    """

    kind: ClassVar[str] = ""
    has_penalty: ClassVar[bool] = True  # a sparsity penalty, which may be warmed up
    resampled: ClassVar[bool] = False  # dead features are resampled unless told otherwise
    d_in: int
    d_sae: int

    @property
    def d_out(self) -> int:
        """Width of the reconstruction."""
        return self.d_in

    def describe(self) -> str:
        """The kind and its settings, for pages."""
        settings = [f"{f.name} = {getattr(self, f.name)}" for f in fields(self) if f.name not in ("d_in", "d_sae")]
        return f"{self.kind} with {', '.join(settings)}" if settings else self.kind

    def __post_init__(self) -> None:
        for name in ("d_in", "d_sae"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}: got {value!r}; wanted a positive integer")


MOST_AUX = 512  # the default number of dead features that AuxK uses is at most this


def auto_aux_k(d_in: int) -> int:
    """A power of two near half of the width served Gao et al. (512 at GPT-2's); the cost of more grows with them."""
    return min(MOST_AUX, d_in // 2)


@dataclass(frozen=True)
class TopKConfig(SAEConfig):
    """A TopK autoencoder.

    Attributes:
        k: active features per token.
        aux_k: dead features used to explain what is left over (AuxK); 0 switches AuxK off. "auto", which becomes a
            number: d_in // 2, but at most 512 (Gao et al. 2024). None: d_in // 2, as it was in older files.
        aux_coefficient: weight of the AuxK loss.
    """

    kind: ClassVar[str] = "topk"
    has_penalty: ClassVar[bool] = False
    k: int = 32
    aux_k: int | str | None = "auto"
    aux_coefficient: float = 1 / 32

    @property
    def uses_k(self) -> bool:
        """Whether ``k`` has an effect."""
        return True

    def describe(self) -> str:
        return f"TopK with k = {self.k}"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.uses_k:
            checks.topk(self.k, self.d_sae)
        if self.aux_k == "auto":
            object.__setattr__(self, "aux_k", auto_aux_k(self.d_in))
        is_count = isinstance(self.aux_k, int) and not isinstance(self.aux_k, bool) and self.aux_k >= 0
        if self.aux_k is not None and not is_count:
            raise ValueError(
                f'aux_k: got {self.aux_k!r}; wanted an integer ≥ 0, "auto" (d_in // 2, at most {MOST_AUX}), or '
                "None for d_in // 2"
            )
        if self.aux_coefficient < 0:
            raise ValueError(f"aux_coefficient: got {self.aux_coefficient}; wanted a number ≥ 0")


@dataclass(frozen=True)
class ReLUConfig(SAEConfig):
    """The paper's autoencoder.

    Attributes:
        l1_coefficient: λ in ``mean_D (x − x̂)² + λ·Σ|f|``: the error is a mean over D, the penalty a sum over features.
        decoder_norm: "unit", or "free": rows of any norm, a penalty of ``f·‖W_dec‖``, no bias on the input.
    """

    kind: ClassVar[str] = "relu"
    resampled: ClassVar[bool] = True
    l1_coefficient: float = 1e-3
    decoder_norm: str = DecoderNorm.UNIT.value

    def describe(self) -> str:
        free = "" if self.decoder_norm == DecoderNorm.UNIT else ", free norms"
        return f"ReLU with λ = {self.l1_coefficient:g}{free}"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.l1_coefficient >= 0:
            raise ValueError(f"l1_coefficient: got {self.l1_coefficient}; wanted a number ≥ 0")
        object.__setattr__(self, "decoder_norm", DecoderNorm.named(self.decoder_norm))


def from_dict(config: type[SAEConfig], values: JsonDict) -> SAEConfig:
    """A configuration from JSON; a field it does not know is an error, not ignored."""
    known = {f.name for f in fields(config)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(
            f"cfg: {', '.join(unknown)} unknown for kind {config.kind!r}; it has {', '.join(sorted(known))}"
        )
    return config(**values)
