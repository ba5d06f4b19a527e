"""The dictionaries that a reproduction trains, and the amount of text that it reads."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from monosem.nn import registry
from monosem.nn.config import SAEConfig

FIRST, SECOND, CONTROL = "A", "B", "shuffled"


@dataclass(frozen=True)
class Run:
    """One dictionary to train: ``A/1`` has 4,096 features of the first model."""

    name: str
    d_sae: int
    steps: int

    @property
    def model(self) -> str:
        """Which model: ``A`` (the first), ``B`` (the second) or ``shuffled`` (the first with permuted weights)."""
        return self.name.split("/")[0]


@dataclass(frozen=True)
class Preset:
    """A reproduction.

    Attributes:
        runs: in the order in which they are trained; the paper's names. ``main`` is the one studied in most detail.
        kind, k, l1: the kind of dictionary and its sparsity, the same for all. A penalty of the number of active
            features aims at k.
        batch_size, lr: of training.
        index_tokens: text read for examples (None: all of it).
        compare_tokens: text read for correlations between dictionaries.
        explained: features (and neurons, and features of the control) that are explained and scored.
    """

    name: str
    runs: tuple[Run, ...]
    main: str = "A/1"
    kind: str = "topk"
    k: int = 16
    l1: float = 3e-3
    batch_size: int = 4096
    lr: float = 1e-3
    index_tokens: int | None = 400_000
    compare_tokens: int | None = 400_000
    explained: int = 100

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"runs": [asdict(run) for run in self.runs]}

    def architecture(self, d_in: int, d_sae: int) -> SAEConfig:
        """The configuration of a dictionary of this preset."""
        of_k = {"k": self.k, "target_l0": self.k}
        return registry.configure(self.kind, d_in, d_sae, l1_coefficient=self.l1, **of_k)

    def run(self, name: str) -> Run:
        return next(run for run in self.runs if run.name == name)

    def of(self, model: str) -> list[Run]:
        """The runs of one model, narrowest first."""
        return sorted((run for run in self.runs if run.model == model), key=lambda run: run.d_sae)


SMALL = Preset(
    "small",
    (
        Run("A/0", 512, 1000),
        Run("A/1", 4096, 1500),
        Run("A/2", 16_384, 1000),
        Run("B/1", 4096, 1500),
        Run("shuffled/1", 4096, 500),
    ),
)
# The paper's widths; its A/5 reads 8 billion activations, this one as many as a day of two cores allows.
PAPER = Preset(
    "paper",
    (
        Run("A/0", 512, 20_000),
        Run("A/1", 4096, 20_000),
        Run("A/2", 16_384, 20_000),
        Run("A/5", 131_072, 10_000),
        Run("B/1", 4096, 20_000),
        Run("shuffled/1", 4096, 5_000),
    ),
    lr=4e-4,
    index_tokens=None,
    compare_tokens=None,
    explained=400,
)
PRESETS = {preset.name: preset for preset in (SMALL, PAPER)}
