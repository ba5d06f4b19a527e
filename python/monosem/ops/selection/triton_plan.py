"""How many candidates a row may have on a GPU, and from what sample of features its threshold is set."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

from monosem.kernels.launch import power2

MOST_SLOTS = 8192  # candidates of a row that one program can hold
CHANCE = 1e-9  # that a row must be redone, by the rule that sets the threshold
SLAB = 2048  # features a product of its own, where products go through memory


@dataclass(frozen=True)
class Plan:
    """How a row of F pre-activations is cut down to candidates.

    Attributes:
        slots: room for candidates, a power of two; all F of them when ``everything``.
        sample: columns that the threshold is set from.
        j, j_most: ranks in the sample between which the threshold is.
        form: how candidates are found, see ``monosem.kernels.launch.FORMS``.
    """

    slots: int
    everything: bool
    sample: int = 0
    j: int = 0
    j_most: int = 0
    form: str = "scan"

    def listed(self, k: int) -> int:
        """Of the slots, how many may be scored; a row that would need more is redone."""
        return self.slots if self.everything else min(self.slots, max(128, 4 * power2(k)))

    def bytes(self, k: int) -> int:
        """Memory that a row needs at once."""
        before = 2 * SLAB if self.form == "slab" else 0
        return max(self.slots * 8 + max(self.listed(k) * 12, before), self.sample * 4)


def _poisson_tail(mean: float, n: int) -> float:
    """P(X ≥ n) for X ~ Poisson(mean), without losing small ones."""
    total, term = 0.0, math.exp(-mean + n * math.log(mean) - math.lgamma(n + 1))
    while term > total * 1e-12:
        total += term
        n += 1
        term *= mean / n
    return min(1.0, total)


@cache
def plan_of(f: int, k: int) -> Plan | None:
    """The cheapest plan, or None when k is too large for any: then rows are sorted, a few at a time.

    The sample's columns are spread evenly, so the number of the k largest among them is close to Poisson with mean
    k·sample/F. With j such that this number reaches j once in 1/CHANCE, the j-th of the sample lets k or more through;
    with j_most such that the ``slots`` largest have fewer than j_most in the sample as rarely, there is room.
    """
    if power2(f) <= max(2048, 4 * power2(k)):
        return Plan(power2(f), True) if power2(f) <= MOST_SLOTS else None
    for slots in (1024, 2048, 4096, 8192):
        for sample in (256, 512, 1024, 2048, 4096, 8192):
            if sample > f // 4 or slots < 2 * k:
                continue
            rate = sample / f
            j = next(j for j in range(1, slots) if _poisson_tail(k * rate, j) <= CHANCE)
            j_most = max((j for j in range(1, sample) if 1 - _poisson_tail(slots * rate, j) <= CHANCE), default=0)
            if j_most >= 2 * j:  # room for the margin too
                return Plan(slots, False, sample, j, j_most)
    return None


def formed(chosen: Plan, k: int, form: str) -> Plan:
    """The plan, with candidates found in this form."""
    if chosen.everything:
        return chosen
    if form == "slab":  # no sample; room for what is within the margin of the k-th
        return Plan(min(chosen.slots, max(1024, 4 * power2(k))), False, form=form)
    return replace(chosen, form=form)
