"""The dictionaries that a reproduction trains, and the amount of text that it reads."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any

from monosem.nn import registry
from monosem.nn.config import SAEConfig

FIRST, SECOND, CONTROL = "A", "B", "shuffled"
# Active features at the start, at most a tenth, of the kinds that begin with half of them otherwise (``ReLUConfig``).
INITIAL_L0 = 50.0


@dataclass(frozen=True)
class Run:
    """One dictionary to train: ``A/1`` has 4,096 features of the first model.

    ``aux_k``, ``aux_every``: where it has AuxK, so many dead features per token, of every so many-th token; None: the
    default. Nine in ten features of a wide dictionary are dead for a time. As many per token as d_in // 2 share what is
    left over until none comes near the k largest; of as few as 2·k some come back.

    ``lazy_rows``: as of ``TrainConfig``. Adam goes on moving a row for some ten steps after its feature has fired;
    without that, features that seldom fire die later.
    """

    name: str
    d_sae: int
    steps: int
    aux_k: int | None = None
    aux_every: int = 1
    lazy_rows: bool = False

    @property
    def checkpoint_every(self) -> int:
        """Steps between checkpoints: a quarter of the run, or some ten minutes of a wide one on two cores."""
        return max(1, min(self.steps // 4, 30_000_000 // self.d_sae))

    @property
    def model(self) -> str:
        """Which model: ``A`` (the first), ``B`` (the second) or ``shuffled`` (the first with permuted weights)."""
        return self.name.split("/")[0]

    @property
    def own_settings(self) -> dict[str, Any]:
        """Those that are not left to the default."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {name: value for name, (value, default) in values.items() if default not in (MISSING, value)}

    def to_dict(self) -> dict[str, Any]:
        """Without what is left to the default, as in files that are older than it."""
        return {"name": self.name, "d_sae": self.d_sae, "steps": self.steps} | self.own_settings


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
    l1: float = 1.7e-3  # L0 16 with 4,096 features of model A
    batch_size: int = 4096
    lr: float = 1e-3
    index_tokens: int | None = 800_000
    compare_tokens: int | None = 400_000
    explained: int = 100

    def to_dict(self) -> dict[str, Any]:
        few = getattr(self.architecture(512, self.runs[0]), "initial_l0", None) is not None
        starts = {"initial_l0": INITIAL_L0} if few else {}
        return asdict(self) | {"runs": [run.to_dict() for run in self.runs]} | starts

    def architecture(self, d_in: int, run: Run) -> SAEConfig:
        """The configuration of a dictionary of this preset."""
        offered: dict[str, object] = {"k": self.k, "target_l0": self.k, "l1_coefficient": self.l1}
        if run.aux_k is not None:
            offered |= {"aux_k": run.aux_k, "aux_every": run.aux_every}
        cfg = registry.configure(self.kind, d_in, run.d_sae, **offered)
        if "initial_l0" in cfg.without_effect:
            return cfg
        return replace(cfg, **registry.setting(self.kind, initial_l0=min(INITIAL_L0, run.d_sae / 10)))

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
# The paper's widths, for a text of a hundred million tokens and some hours of two cores (its own A/1 and A/5 read 8
# billion activations): 50 million activations each, 200 for the dictionary studied most, 41 for the widest.
PAPER = Preset(
    "paper",
    (
        Run("A/0", 512, 12_300),
        Run("A/1", 4096, 49_000),
        Run("A/2", 16_384, 12_300, aux_k=32),
        Run("A/5", 131_072, 10_000, aux_k=32, aux_every=4, lazy_rows=True),
        Run("B/1", 4096, 12_300),
        Run("shuffled/1", 4096, 12_300),
    ),
    index_tokens=2_000_000,
    compare_tokens=5_000_000,
    explained=400,
)
PRESETS = {preset.name: preset for preset in (SMALL, PAPER)}
