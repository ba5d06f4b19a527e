"""A limit on the norm of activations: tokens beyond it, attention sinks above all, are left out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SAMPLED = 64  # contexts by which the median is measured, evenly spaced
AS_TRAINED, AS_HARVESTED = "as trained", "as harvested"


@dataclass(frozen=True)
class NormLimit:
    """A token is left out where the norm of an activation exceeds ``multiple`` times the median norm at its hook.

    The medians are measured once, on the first text, and stored: a dictionary is read with those of its training.

    Attributes:
        multiple: above 1.
        medians: of the norm, one per activation that stands side by side (``Sites.widths``).
    """

    multiple: float
    medians: tuple[float, ...]

    def __post_init__(self) -> None:
        check_multiple(self.multiple)
        object.__setattr__(self, "medians", tuple(self.medians))
        if not self.medians or not all(isinstance(m, (int, float)) and 0 < m < math.inf for m in self.medians):
            raise ValueError(
                f"skip_norm: got medians {list(self.medians)}; wanted one positive number per activation. Where the "
                "median norm is 0, at least half of the activations are 0: choose another hook, or no limit."
            )

    @classmethod
    def measured(cls, multiple: float, activations: Iterable[Sequence[Tensor]]) -> NormLimit:
        """The limit by the median norms of activations, to four digits.

        Args:
            activations: batches of one tensor [n, d] per activation.
        """
        check_multiple(multiple)
        columns: list[list[Tensor]] = []
        for parts in activations:
            columns = columns or [[] for _ in parts]
            for column, part in zip(columns, parts, strict=True):
                column.append(norms(part).flatten().cpu())
        medians = (torch.cat(column).median().item() for column in columns)
        return cls(float(multiple), tuple(float(f"{median:.4g}") for median in medians))

    @classmethod
    def from_json(cls, record: object) -> NormLimit:
        """Of ``to_json``, or a record that holds more. Raises ValueError for another."""
        if not isinstance(record, dict) or not isinstance(record.get("medians"), list) or "multiple" not in record:
            raise ValueError(f"skip_norm: got {record!r:.100}; wanted a record with multiple and medians")
        return cls(record["multiple"], tuple(record["medians"]))

    def to_json(self) -> dict[str, Any]:
        return {"multiple": self.multiple, "medians": list(self.medians)}

    def is_about(self, other: NormLimit) -> bool:
        """Whether this is the other limit, measured again: rounding may differ by the number of threads."""
        pairs = list(zip(self.medians, other.medians, strict=False))
        same = self.multiple == other.multiple and len(self.medians) == len(other.medians)
        return same and all(math.isclose(a, b, rel_tol=1e-2) for a, b in pairs)

    def within(self, parts: Sequence[Tensor]) -> Tensor:
        """bool [...]: the tokens that count, by their activations [..., d], one tensor per median.

        A token with NaN counts: it is an error to be found, not one to be left out.
        """
        if len(parts) != len(self.medians):
            raise ValueError(
                f"skip_norm: got medians of {len(self.medians)} activations for {len(parts)}; wanted one per "
                "activation. Measure the limit at these hooks: give the multiple alone."
            )
        beyond = [norms(part) > self.multiple * median for part, median in zip(parts, self.medians, strict=True)]
        out = beyond[0]
        for other in beyond[1:]:
            out = out | other.to(out.device)
        return ~out

    def __str__(self) -> str:
        medians = ", ".join(f"{median:g}" for median in self.medians)
        return f"a norm above {self.multiple:g} times the median ({medians})"


SkipNorm = float | NormLimit | None


def norms(x: Tensor) -> Tensor:
    """fp32 [...] of x [..., d] in any floating-point type."""
    return torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32)


def check_multiple(value: object) -> None:
    """Raise ValueError unless this is a multiple of the median that leaves most tokens in."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 < value < math.inf:
        raise ValueError(
            f"skip_norm: got {value!r}; wanted a multiple of the median norm above 1 (10, say), or None to leave no "
            "token out by its norm"
        )


def as_trained(metadata: dict[str, Any]) -> NormLimit | None:
    """The limit with which a dictionary was trained, from its metadata; None where there was none."""
    record = metadata.get("skip_norm")
    return None if record is None else NormLimit.from_json(record)
