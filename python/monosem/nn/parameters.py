"""How the parameters of an autoencoder are updated: each class declares its own, all other code loops over them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Declared:
    """A parameter, by how it is updated.

    Attributes:
        per_feature: its first axis counts features. Resampling and ``Ema.restart`` reset those entries.
        lr_factor: its learning rate, as a factor on that of the run.
    """

    per_feature: bool = False
    lr_factor: float = 1.0

    def __post_init__(self) -> None:
        if not self.lr_factor >= 0:
            raise ValueError(f"lr_factor: got {self.lr_factor!r}; wanted a number ≥ 0")


@dataclass(frozen=True)
class Rows(Declared):
    """One row per feature, [d_sae, …]. The moments may have fewer bits, and ``lazy_rows`` applies.

    Attributes:
        unit: the gradient loses its part parallel to each row, and the rows are made unit after each update.
    """

    per_feature: bool = True
    unit: bool = False


@dataclass(frozen=True)
class Vector(Declared):
    """A bias, a threshold: moments in the parameter's own type, updated in every step.

    Attributes:
        initial: its value at the start, in every element; ``ComposedSAE`` makes a parameter that has one, and
            resampling sets the elements of restarted features to it. None: the class does both itself.
    """

    initial: float | None = None


@dataclass(frozen=True)
class Matrix(Declared):
    """A dense matrix, such as a transcoder's skip connection. The moments may have fewer bits."""
