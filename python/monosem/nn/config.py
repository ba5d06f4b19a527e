"""Configurations of the autoencoders: small frozen dataclasses that are written to JSON and read back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, fields, replace
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


AUTO = "auto"  # a setting that becomes a number by the others, or by the data


def shown(value: Any) -> str:
    """The value of a setting, for people."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def check_initial_l0(l0: Any, d_sae: int) -> None:
    """Raise unless a number of active features at the start is None, or above 0 and at most half of them."""
    if l0 is None:
        return
    check_number("initial_l0", l0, 0, above=True)
    if l0 > d_sae / 2:
        raise ValueError(
            f"initial_l0: got {l0:g}; wanted at most d_sae / 2 = {d_sae / 2:g}, or None for biases of 0, which make "
            "about so many active"
        )


def check_share(name: str, value: Any) -> None:
    """Raise unless a number is a share of a run, 0 to 1."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError(f"{name}: got {value!r}; wanted a share of the run, 0 to 1")


def annealed(initial: float | None, final: float, progress: float, start: float, end: float) -> float:
    """A setting that goes linearly from ``initial`` to ``final`` between two shares of the run; None: ``final``."""
    if initial is None or progress >= end:
        return final
    return initial if progress <= start else initial + (final - initial) * (progress - start) / (end - start)


class TrainedOn(str, Enum):
    """The activations of each token that a kind is trained on."""

    ONE = "one"
    PAIR = "an input and its target"
    SEVERAL = "those of several sources, as wide as one another"


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
    sparsity_warmup: ClassVar[float] = 0.05  # share of a run over which the penalty rises, unless told otherwise
    reconstructs_its_input: ClassVar[bool] = True  # else its target is another activation
    trained_on: ClassVar[TrainedOn] = TrainedOn.ONE
    without_effect: ClassVar[tuple[str, ...]] = ()  # fields that have no effect beside the others
    # Fields that are in ``title`` or ``words``, or go without saying.
    named: ClassVar[tuple[str, ...]] = ("d_in", "d_sae")
    from_data: ClassVar[tuple[str, ...]] = ()  # fields that "auto" leaves to the first batch (``SAE.measure``)
    d_in: int
    d_sae: int

    @classmethod
    def shape_of(cls, widths: Sequence[int]) -> JsonDict:
        """The fields that are decided by the widths of the activations, which stand side by side in a batch.

        Raises:
            ValueError: this kind is trained on other activations.
        """
        if len(widths) != 1:
            raise cls._other(widths)
        return {"d_in": widths[0]}

    @classmethod
    def _other(cls, widths: Sequence[int]) -> ValueError:
        got = " + ".join(map(str, widths))
        return ValueError(
            f"activations: got {len(widths)} per token, of width {got}; wanted {cls.trained_on.value}, for kind "
            f"{cls.kind!r}. Choose another kind, or other hooks."
        )

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """Fields that the first batch is to decide still."""
        return tuple(name for name in self.from_data if getattr(self, name) == AUTO)

    @property
    def d_out(self) -> int:
        """Width of the reconstruction."""
        return self.d_in

    @property
    def title(self) -> str:
        """The name of the kind, for people."""
        return self.kind

    @property
    def words(self) -> list[str]:
        """The settings that are always told."""
        return []

    def describe(self) -> str:
        """The kind, the settings that are always told, and the others that differ from their defaults, for people."""
        settings = [
            *self.words,
            *(f"{f.name} = {shown(getattr(self, f.name))}" for f in fields(self) if self._tells(f)),
        ]
        return f"{self.title} with {', '.join(settings)}" if settings else self.title

    def _tells(self, field: Field[Any]) -> bool:
        """Whether a field has an effect, and another value than its default becomes beside the other fields."""
        if field.name in self.named or field.name in self.without_effect:
            return False
        if field.default is MISSING:
            return True
        try:
            return replace(self, **{field.name: field.default}) != self
        except ValueError:  # the default does not go with the other fields
            return True

    def __post_init__(self) -> None:
        for name in ("d_in", "d_sae"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}: got {value!r}; wanted a positive integer")


P_START = 0.1  # share of a run after which p is annealed
K_ANNEAL = 0.2  # default share of a run over which k is annealed
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
        aux_every: AuxK reads every so many-th token of a batch: with many dead features it takes as long as the rest of
            the step, and with 4 a quarter of that. Its loss is the same in expectation.
        initial_k: k at the start of a run of ``Trainer``, more or fewer; None: k throughout.
        k_anneal: share of the run over which it goes linearly from ``initial_k`` to k.
    """

    kind: ClassVar[str] = "topk"
    has_penalty: ClassVar[bool] = False
    named: ClassVar[tuple[str, ...]] = (*SAEConfig.named, "k")
    k: int = 32
    aux_k: int | str | None = AUTO
    aux_coefficient: float = 1 / 32
    initial_k: int | None = None
    k_anneal: float = K_ANNEAL
    aux_every: int = 1

    def k_at(self, progress: float) -> int:
        """k once this share of the run is done."""
        return round(annealed(self.initial_k, self.k, progress, 0.0, self.k_anneal))

    @property
    def uses_k(self) -> bool:
        """Whether ``k`` has an effect."""
        return True

    @property
    def title(self) -> str:
        return "TopK"

    @property
    def words(self) -> list[str]:
        return [f"k = {self.k}"]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.uses_k:
            checks.topk(self.k, self.d_sae)
            if self.initial_k is not None:
                checks.topk(self.initial_k, self.d_sae, "initial_k")
        check_share("k_anneal", self.k_anneal)
        if self.aux_k == AUTO:
            object.__setattr__(self, "aux_k", auto_aux_k(self.d_in))
        is_count = isinstance(self.aux_k, int) and not isinstance(self.aux_k, bool) and self.aux_k >= 0
        if self.aux_k is not None and not is_count:
            raise ValueError(
                f'aux_k: got {self.aux_k!r}; wanted an integer ≥ 0, "auto" (d_in // 2, at most {MOST_AUX}), or '
                "None for d_in // 2"
            )
        check_number("aux_coefficient", self.aux_coefficient, 0)
        if not isinstance(self.aux_every, int) or isinstance(self.aux_every, bool) or self.aux_every < 1:
            raise ValueError(f"aux_every: got {self.aux_every!r}; wanted a positive integer: 1 reads every token")


@dataclass(frozen=True)
class ReLUConfig(SAEConfig):
    """The paper's autoencoder.

    Attributes:
        l1_coefficient: λ in ``mean_D (x − x̂)² + λ·Σ|f|``: the error is a mean over D, the penalty a sum over features.
        decoder_norm: "unit", or "free": rows of any norm, a penalty of ``f·‖W_dec‖``.
        p: the penalty becomes ``λ·Σ f^p``, 0 < p ≤ 1: nearer to a count of active features (``nn.Lp``).
        p_start: share of a run of ``Trainer`` after which p is annealed linearly from 1, to the end of the run.
        p_updates: number of equal steps in which p falls, λ being rescaled at each so that the penalty stays as large
            (Karvonen et al. 2024 have 10). None: p falls all the time, and λ is constant.
        apply_b_dec_to_input: whether the encoder reads x − b_dec, or x. None, which becomes True with unit norms, and
            False with free ones (Anthropic, April 2024).
        initial_l0: active features per token at the start: the first batch (``initialize``, ``Trainer``) sets b_enc so
            (``nn.starting_l0``), and a resampled feature is active for inputs that come near its own. None: biases of
            0, as in the paper, which make half of d_sae active at first.
    """

    kind: ClassVar[str] = "relu"
    named: ClassVar[tuple[str, ...]] = (*SAEConfig.named, "l1_coefficient", "decoder_norm", "p", "apply_b_dec_to_input")
    l1_coefficient: float = 1e-3
    decoder_norm: str = DecoderNorm.UNIT.value
    p: float = 1.0
    p_start: float = P_START
    apply_b_dec_to_input: bool | None = None
    p_updates: int | None = None
    initial_l0: float | None = None

    @property
    def powers(self) -> list[float]:
        """With ``p_updates``: the values that p takes, 1 first."""
        n = self.p_updates or 0
        return [1 + (self.p - 1) * j / n for j in range(n + 1)] if n else []

    def update_at(self, progress: float) -> int:
        """With ``p_updates``: the number of the value of p once this share of the run is done."""
        n = self.p_updates or 0
        if progress >= 1:
            return n
        return 0 if progress < self.p_start else min(n, 1 + int((progress - self.p_start) / (1 - self.p_start) * n))

    def p_at(self, progress: float) -> float:
        """p once this share of the run is done."""
        if self.p_updates is not None:
            return self.powers[self.update_at(progress)]
        return annealed(1.0, self.p, progress, self.p_start, 1.0)

    @property
    def resampled(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]  # of the class elsewhere
        """With free norms features do not die (Anthropic, April 2024)."""
        return self.decoder_norm == DecoderNorm.UNIT

    @property
    def title(self) -> str:
        return "ReLU"

    @property
    def words(self) -> list[str]:
        unit = self.decoder_norm == DecoderNorm.UNIT
        words = [f"λ = {self.l1_coefficient:g}"]
        if self.p != 1:
            words.append(f"p = {self.p:g}")
        if not unit:
            words.append("free norms")
        if self.apply_b_dec_to_input != unit:
            words.append(f"encoder's input {'x - b_dec' if self.apply_b_dec_to_input else 'x'}")
        return words

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("l1_coefficient", self.l1_coefficient, 0)
        object.__setattr__(self, "decoder_norm", DecoderNorm.named(self.decoder_norm))
        if self.apply_b_dec_to_input is None:
            object.__setattr__(self, "apply_b_dec_to_input", self.decoder_norm == DecoderNorm.UNIT)
        if not isinstance(self.apply_b_dec_to_input, bool):
            got = self.apply_b_dec_to_input
            raise ValueError(f"apply_b_dec_to_input: got {got!r}; wanted True or False, or None for the usual one")
        check_number("p", self.p, 0, above=True)
        if self.p > 1 or (self.p < 1 and self.decoder_norm != DecoderNorm.UNIT):
            raise ValueError(
                f"p: got {self.p} with decoder_norm={self.decoder_norm!r}; wanted at most 1, or 1 if 'free'"
            )
        check_share("p_start", self.p_start)
        check_initial_l0(self.initial_l0, self.d_sae)
        n = self.p_updates
        if n is not None and (not isinstance(n, int) or isinstance(n, bool) or n < 1 or self.p == 1):
            raise ValueError(
                f"p_updates: got {n!r} with p={self.p:g}; wanted an integer ≥ 1 and a p below 1, or None for a p that "
                "falls all the time"
            )


def from_dict(config: type[SAEConfig], values: JsonDict) -> SAEConfig:
    """A configuration from JSON; a field it does not know is an error, not ignored."""
    known = {f.name for f in fields(config)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(
            f"cfg: {', '.join(unknown)} unknown for kind {config.kind!r}; it has {', '.join(sorted(known))}"
        )
    return config(**values)
