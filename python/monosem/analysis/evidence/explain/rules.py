"""A short list of rules learned from examples: the explanation of a feature that needs no language model.

The first rule whose conditions hold gives the level (0 to 9) of a token; further lines say which next tokens are
likelier. Rules are text and are read back from text: what an explanation does not say is not used.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import log

import numpy as np

from monosem.analysis.evidence.explain.attributes import AND, in_context, of_token
from monosem.ops.precision import as_given

MOST_RULES, PAIRS_FROM = 8, 48
_RULE = re.compile(r"^level (\d(?:\.\d)?) where (.+)$")
_OTHERWISE = re.compile(r"^level (\d(?:\.\d)?) otherwise$")
_NEXT = re.compile(r"^next token ([+-]\d+\.\d) if (.+)$")


@dataclass(frozen=True)
class Rules:
    """``rules``: (level, conditions), the first that holds counts; ``otherwise`` where none does; ``next``: (log-odds,
    attribute) of tokens that are likelier or less likely to follow."""

    rules: tuple[tuple[float, tuple[str, ...]], ...]
    otherwise: float
    next: tuple[tuple[float, str], ...] = ()

    def __str__(self) -> str:
        lines = [f"level {level:.1f} where {AND.join(c)}" for level, c in self.rules]
        lines.append(f"level {self.otherwise:.1f} otherwise")
        return "\n".join(lines + [f"next token {odds:+.1f} if {a}" for odds, a in self.next])

    @staticmethod
    def parse(text: str) -> Rules:
        """Read what ``str`` wrote.

        Raises:
            ValueError: a line that is none of the three kinds.
        """
        rules, otherwise, following = [], 0.0, []
        for line in text.splitlines():
            if match := _RULE.match(line):
                rules.append((float(match[1]), tuple(match[2].split(AND))))
            elif match := _OTHERWISE.match(line):
                otherwise = float(match[1])
            elif match := _NEXT.match(line):
                following.append((float(match[1]), match[2]))
            else:
                raise ValueError(f"explanation: {line[:80]!r} is no rule; wanted 'level L where …'")
        return Rules(tuple(rules), otherwise, tuple(following))

    def levels(self, tokens: Sequence[str]) -> list[float]:
        """The predicted level of each token of a snippet."""
        out = []
        for attributes in in_context(tokens):
            out.append(next((v for v, c in self.rules if all(a in attributes for a in c)), self.otherwise))
        return out

    def odds(self, token: str) -> float:
        """Sum of the log-odds of a token's attributes: above 0, likelier than not to follow."""
        attributes = set(of_token(token))
        return sum(v for v, a in self.next if a in attributes)


def learn(snippets: Sequence[Sequence[str]], levels: Sequence[Sequence[float]]) -> tuple[tuple, float]:
    """(rules, otherwise) that fit the levels of the tokens, greedily.

    Each step splits the tokens not yet covered by the one condition, or pair of conditions, that lowers the squared
    error most; a rule must explain more than its length costs, so that noise is left alone.
    """
    tokens = list(chain.from_iterable(in_context(s) for s in snippets))
    y = np.asarray(list(chain.from_iterable(levels)), dtype=np.float64)
    held = Counter(chain.from_iterable(tokens))
    names = sorted(a for a, n in held.items() if 2 <= n < len(tokens))
    number = {a: i for i, a in enumerate(names)}
    table = np.zeros((len(names), len(tokens)), dtype=np.float32)
    for j, attributes in enumerate(tokens):
        table[[number[a] for a in attributes if a in number], j] = 1
    left = np.ones(len(tokens), dtype=bool)
    total = ((y - y.mean()) ** 2).sum() if len(y) else 0.0
    rules: list[tuple[float, tuple[str, ...]]] = []
    while len(rules) < MOST_RULES and left.sum() > 2 and names:
        best = _best_split(table[:, left], y[left], 0.01 * total)
        if best is None:
            break
        conditions = tuple(names[i] for i in best)
        covered = left & table[list(best)].all(0)
        rules.append((round(float(y[covered].mean()), 1), conditions))
        left &= ~covered
    return tuple(rules), round(float(y[left].mean()), 1) if left.any() else 0.0


@as_given
def _best_split(table: np.ndarray, y: np.ndarray, threshold: float) -> tuple[int, ...] | None:
    """Numbers of the one or two attributes that lower the squared error most, if by more than they cost."""
    centred = (y - y.mean()).astype(np.float32)
    variance = float(centred.astype(np.float64).var())
    if not variance:
        return None
    # A split by chance among m candidates lowers the error by about 2·ln(m) variances.
    cost_one, cost_two = (2 * log(len(table) * m + 2) * variance for m in (1, PAIRS_FROM))
    one = _gain(table @ centred, table.sum(1), len(y)) - cost_one
    order = np.argsort(-one, kind="stable")[:PAIRS_FROM]
    best, choice = one[order[0]], (int(order[0]),)
    pair_sum = (table[order] * centred) @ table.T
    pair_count = table[order] @ table.T
    two = _gain(pair_sum, pair_count, len(y)) - cost_two
    where = np.unravel_index(int(two.argmax()), two.shape)
    if two[where] > best + 1e-6 * variance * len(y):
        best, choice = two[where], (int(order[where[0]]), int(where[1]))
    return choice if best > threshold else None


def _gain(sums: np.ndarray, counts: np.ndarray, n: int) -> np.ndarray:
    """By how much two means instead of one lower the squared error of centred values; −∞ where a side is too small."""
    counts = counts.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = sums.astype(np.float64) ** 2 * (1 / counts + 1 / (n - counts))
    return np.where((counts >= 2) & (counts <= n - 1), gain, -np.inf)


def learn_next(raised: Sequence[str], background: Sequence[str], limit: int = 12) -> tuple[tuple[float, str], ...]:
    """Log-odds of a token's attributes among tokens that a feature raises, against a background.

    log (n₊ + ½) / (N₊ + 1) − log (n₋ + ½) / (N₋ + 1); attributes that almost coincide are counted once.
    """
    if not raised or not background:
        return ()
    up = Counter(chain.from_iterable(of_token(t) for t in raised))
    down = Counter(chain.from_iterable(of_token(t) for t in background))
    scored = []
    for a in sorted(up.keys() | down.keys()):
        if up[a] < 2 and down[a] < 3:
            continue
        odds = log((up[a] + 0.5) / (len(raised) + 1)) - log((down[a] + 0.5) / (len(background) + 1))
        scored.append((odds, a))
    out: list[tuple[float, str]] = []
    members: list[frozenset[str]] = []
    everything = [*raised, *background]
    for odds, a in sorted(scored, key=lambda s: (-abs(s[0]), s[1])):
        mine = frozenset(t for t in everything if a in of_token(t))
        if abs(odds) < 0.5 or any(len(mine & m) > 0.6 * len(mine | m) for m in members):
            continue
        out.append((round(odds, 1), a))
        members.append(mine)
        if len(out) == limit:
            break
    return tuple(out)
