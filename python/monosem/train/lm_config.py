"""How a language model is trained. Without PyTorch: ``monosem lm train`` has an option for each field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

HeadDtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class LMTrainConfig:
    """The settings of AdamW with linear warm-up and cosine decay to zero at the last step.

    Attributes:
        seed: seed of the weights and of the order of the text.
        epochs: passes over the text.
        batch_contexts: contexts per step.
        lr: peak of AdamW's learning rate; cosine decay to zero.
        warmup_steps: steps over which the learning rate rises.
        weight_decay: weight decay, on matrices only.
        betas: decay of AdamW's two moments.
        clip: largest gradient norm.
        holdout: share of each source's documents not trained on.
        checkpoint_every: steps between checkpoints.
        head_dtype: factors of the unembedding's products; bfloat16 is faster on processors that multiply it.
    """

    seed: int = 0
    epochs: float = 1.0
    batch_contexts: int = 32
    lr: float = 3e-3
    warmup_steps: int = 200
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    holdout: float = 0.02
    checkpoint_every: int = 250
    head_dtype: HeadDtype = "float32"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_contexts", "lr", "clip", "checkpoint_every"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: got {getattr(self, name)}; wanted more than 0")
        if self.head_dtype not in get_args(HeadDtype):
            raise ValueError(f"head_dtype: got {self.head_dtype!r}; wanted one of {', '.join(get_args(HeadDtype))}")
