"""How a dictionary is trained: one small frozen dataclass, checked when it is made.

It is the only place of each setting: ``monosem train`` has an option for each field, with the words of "Attributes" as
its help (``cli/from_dataclass.py``). So this module does without PyTorch, for which a command line need not wait.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Literal, TypeGuard, get_args

from monosem.train.resample_config import ResampleConfig

if TYPE_CHECKING:
    from monosem.nn.config import JsonDict

AdamState = Literal["fp32", "bf16", "int8"]
DecayShape = Literal["linear", "cosine"]
NORMALISATIONS = ("none", "mean_norm", "whiten")
BY_TOKEN = "layer_norm"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a dictionary is trained.

    A length of time may be a number of steps (``int``) or a share of ``steps`` (``float``, 0 to 1).

    Attributes:
        lr: peak learning rate of Adam. The paper states none and found that lower is better given enough steps: 1e-3 to
            3e-3 suits runs of a few million tokens, 1e-4 to 4e-4 long ones and wide dictionaries.
        batch_size: tokens per batch. In Python the source makes the batches, and this is for the estimates of progress
            and memory.
        steps: optimizer steps of the whole run, to which the schedules refer.
        betas: decay of Adam's two moments.
        eps: added to the denominator of Adam's step.
        adam_state: precision of Adam's moments of both matrices: 8, 4 or 2 bytes per weight; fewer bits than fp32 are
            rounded stochastically and reproducibly.
        lazy_rows: do not update a feature's row in a batch that gives it no gradient; saves time in wide dictionaries,
            but differs from ``torch.optim.Adam`` (see ``FastStep``).
        lr_warmup: time over which the learning rate rises linearly from 0: steps (200) or a share of the run (0.02).
        lr_decay: time at the end over which it falls to 0.
        decay_shape: shape of the fall.
        sparsity_warmup: time over which the sparsity penalty rises linearly from 0 (no effect on TopK).
        clip: largest gradient norm, over all parameters; None: no clipping.
        ema: also keep an exponential moving average of the weights, with this decay (for example 0.999); None: none.
        dead_after: a feature that fired on none of this many tokens is dead: AuxK revives it, metrics count it.
            Gao et al. (2406.04093) use 10 M in runs of billions of tokens.
        resample: the paper's resampling of dead neurons (section "Neuron Resampling"); None: none.
        init_bias: set a decoder bias that is still 0 to the geometric median of the first batch.
        seed: of the draws that resampling makes.
        log_every: steps between two rows of metrics, each the mean over the steps since the last.
        checkpoint_every: steps between two checkpoints (one is always written at the end).
        cuda_graph: on a GPU, replay the step from a CUDA graph while its shapes are constant (TopK; a ReLU step may
            synchronise and is called). The same weights either way.
        normalize: bring activations to a common scale for training: mean_norm (one factor, so that the mean norm is
            √d_in) or whiten; none: take them as they are. It is estimated on the first 16,384 tokens (for whitening
            at least 8 · d_in) and folded into the weights that are saved, which take activations as they are.
            Penalties, thresholds and losses of the run are in the units of the normalised activations.
    """

    lr: float = 1e-3
    batch_size: int = 4096
    steps: int = 10_000
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    adam_state: AdamState = "fp32"
    lazy_rows: bool = False
    lr_warmup: int | float = 0.02
    lr_decay: int | float = 0.2
    decay_shape: DecayShape = "linear"
    sparsity_warmup: int | float = 0.05
    clip: float | None = None
    ema: float | None = None
    dead_after: int = 1_000_000
    resample: ResampleConfig | None = None
    init_bias: bool = True
    seed: int = 0
    log_every: int = 50
    checkpoint_every: int = 1000
    cuda_graph: bool = True
    normalize: str = "none"

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        _check("lr", self.lr, _positive(self.lr), "a positive number")
        for name in ("batch_size", "steps", "dead_after", "log_every", "checkpoint_every"):
            value = getattr(self, name)
            _check(name, value, _whole(value) and value > 0, "an integer of at least 1")
        betas_ok = len(self.betas) == 2 and all(_number(b) and 0 <= b < 1 for b in self.betas)
        _check("betas", self.betas, betas_ok, "two numbers, each at least 0 and below 1")
        _check("eps", self.eps, _positive(self.eps), "a positive number")
        _check("adam_state", self.adam_state, self.adam_state in get_args(AdamState), "'fp32', 'bf16' or 'int8'")
        _check("lazy_rows", self.lazy_rows, isinstance(self.lazy_rows, bool), "True or False")
        for name in ("lr_warmup", "lr_decay", "sparsity_warmup"):
            value = getattr(self, name)
            ok = (_whole(value) and 0 <= value <= self.steps) or (isinstance(value, float) and 0 <= value <= 1)
            _check(name, value, ok, f"steps (an int from 0 to {self.steps}) or a share of them (a float from 0 to 1)")
        both = self.duration("lr_warmup") + self.duration("lr_decay")
        _check("lr_warmup + lr_decay", both, both <= self.steps, f"at most steps={self.steps}")
        _check("decay_shape", self.decay_shape, self.decay_shape in get_args(DecayShape), "'linear' or 'cosine'")
        _check("clip", self.clip, self.clip is None or _positive(self.clip), "None or a positive number")
        ema_ok = self.ema is None or (_number(self.ema) and 0 < self.ema < 1)
        _check("ema", self.ema, ema_ok, "None or a decay between 0 and 1")
        resample_ok = self.resample is None or isinstance(self.resample, ResampleConfig)
        _check("resample", self.resample, resample_ok, "None or a ResampleConfig")
        if self.resample is not None and self.resample.at_steps[0] > self.steps:
            raise ValueError(
                f"resample.at_steps: got {self.resample.at_steps} in a run of steps={self.steps}, so that no neuron "
                "would ever be resampled; wanted a plan for a run of this length: "
                "ResampleConfig.for_run(steps, batch_size, d_sae)"
            )
        check_normalisation(self.normalize)
        for name in ("init_bias", "cuda_graph"):
            value = getattr(self, name)
            _check(name, value, isinstance(value, bool), "True or False")
        _check("seed", self.seed, _whole(self.seed) and 0 <= self.seed < 2**63, "an integer from 0 to 2**63 - 1")

    def duration(self, name: str) -> int:
        """The field ``name`` (lr_warmup, lr_decay, sparsity_warmup) in steps."""
        value = getattr(self, name)
        return value if isinstance(value, int) else round(value * self.steps)

    def to_json(self) -> JsonDict:
        """A dict that JSON keeps as it is: ``TrainConfig.from_json(json.loads(json.dumps(c.to_json()))) == c``."""
        values: JsonDict = asdict(self) | {"betas": list(self.betas)}
        if self.resample is not None:
            values["resample"]["at_steps"] = list(self.resample.at_steps)
        return values

    @classmethod
    def from_json(cls, values: JsonDict) -> TrainConfig:
        """The inverse of ``to_json``. Raises ValueError for a field that this version does not know."""
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise ValueError(f"config: got the unknown fields {unknown}; wanted those of TrainConfig")
        settings = dict(values)
        if resample := settings.pop("resample", None):
            settings["resample"] = ResampleConfig(**resample)
        return cls(**settings)


def check_normalisation(kind: object) -> None:
    """Raise ValueError for a normalisation that there is not."""
    if kind == BY_TOKEN:
        raise ValueError(
            "normalize: got 'layer_norm', by which each token has a factor of its own: no weights contain it, and a "
            f"dictionary that is saved takes activations as they are; wanted one of {', '.join(NORMALISATIONS)}. Or "
            "choose a hook behind a norm of the model, such as blocks.0.ln2.hook_normalized."
        )
    if kind not in NORMALISATIONS:
        raise ValueError(f"normalize: got {kind!r}; wanted one of {', '.join(NORMALISATIONS)}")


def _check(name: str, value: object, ok: bool, wanted: str) -> None:
    if not ok:
        raise ValueError(f"{name}: got {value!r}; wanted {wanted}")


def _number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _positive(value: object) -> bool:
    return _number(value) and value > 0
