"""The examples that an interpreter explains a feature from, and those that it is tested on.

*Towards Monosemanticity*, appendix "Automated Interpretability": an explanation is made from 49 examples (10 of the
top, 2 of each of 12 lower levels, 5 random, 10 of the top tokens elsewhere) and tested on 60 others (6, 2 × 12, 10,
20), each of nine tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from monosem.analysis.index import Example
from monosem.analysis.index.protocol import FeatureIndex
from monosem.analysis.inputs import Subject
from monosem.analysis.logits import logit_weights, used_vocabulary
from monosem.analysis.scan import Rows
from monosem.analysis.windows import Window, windows_of
from monosem.data.counted import counted
from monosem.data.protocols import LanguageModel

SIDE = 4  # tokens on either side of an example's own: nine in all
LEVELS = 12  # levels of activation below the top one, evenly spaced between 0 and the maximum
MINIMUM = 20  # a feature with fewer examples is left out, as in the paper
SHOWN_LOGITS, TASK_LAST, TASK_RANDOM = 10, 60, 50
TOP, LEVEL, RANDOM, ELSEWHERE = "top", "level", "random", "elsewhere"
EXPLAIN = {TOP: 10, LEVEL: 2, RANDOM: 5, ELSEWHERE: 10}  # LEVEL: of each of the 12
TEST = {TOP: 6, LEVEL: 2, RANDOM: 10, ELSEWHERE: 20}
SPARE = 20  # further random places: those without any activation are the negatives of detection


@dataclass(frozen=True)
class Snippet:
    """Up to nine tokens around a place, with the feature's activation on each.

    ``weight`` is the paper's importance (§ "Importance Scoring"): 1 for a random place; the feature's density × the
    share of its activations in the interval for a chosen one.
    """

    tokens: tuple[str, ...]
    values: tuple[float, ...]
    focus: int
    group: str
    weight: float
    window: Window

    @property
    def active(self) -> bool:
        return max(self.values) > 0


@dataclass(frozen=True)
class Case:
    """One feature with its examples and its logit task.

    Attributes:
        explain, test: disjoint snippets; ``spare``: further random ones, used as negatives only.
        positive, negative: the 10 tokens that it raises and lowers most.
        task, plausible: the 100 tokens of the logit-weight task, shuffled, and which of them it raises.
        single_token: whether the top examples (20 of them where the text has as many) all end in the same token.
    """

    kind: str
    feature: int
    density: float
    maximum: float
    explain: tuple[Snippet, ...]
    test: tuple[Snippet, ...]
    spare: tuple[Snippet, ...]
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    task: tuple[str, ...]
    plausible: tuple[bool, ...]
    single_token: bool

    def level(self, value: float) -> int:
        """An activation as an integer: 0 only where it is 0, else 1 to 9 in equal steps up to the maximum."""
        return int(min(9, max(0, np.ceil(9 * value / self.maximum - 1e-9)))) if self.maximum > 0 else 0


def choose_features(index: FeatureIndex, count: int, seed: int = 0) -> list[int]:
    """``count`` features at random among those with at least ``MINIMUM`` active tokens, in ascending order."""
    alive = np.flatnonzero(np.asarray(index.counts) >= MINIMUM)
    drawn = np.random.default_rng(seed).permutation(alive)[: max(0, count)]
    return sorted(int(f) for f in drawn)


def gather(
    subject: Subject,
    index: FeatureIndex,
    rows: Rows,
    features: Sequence[int],
    kind: str,
    *,
    seed: int = 0,
    skip_positions: int = 1,
    batch: int = 64,
    progress: bool = False,
) -> list[Case]:
    """Choose the examples of every feature, run the model over them, and set the logit task.

    Args:
        subject: dictionary, model and hook (:func:`monosem.analysis.inputs.load_subject`).
        index: an open feature index of ``rows`` (``top``, ``interval``, ``random``, ``histogram``, ``density``,
            ``counts``, ``maximum``).
        kind: what these features are called in the results ("features", "neurons", "shuffled").
        batch: features whose examples go through the model together.

    A feature whose examples do not differ enough for some to explain from and others to test on is left out.

    Raises:
        ValueError: rows too short for nine tokens, or a feature with fewer than 20 active tokens in the index.
    """
    tokens = np.asarray(rows.tokens)
    length = tokens.shape[1]
    if length < skip_positions + 2 * SIDE + 1:
        raise ValueError(
            f"rows: got rows of {length} tokens; wanted at least {skip_positions + 2 * SIDE + 1}: "
            f"{skip_positions} skipped and a window of {2 * SIDE + 1}"
        )
    few = [f for f in features if int(index.counts[f]) < MINIMUM]
    if few:
        raise ValueError(
            f"features: {few[:5]} are active on fewer than {MINIMUM} tokens of this text; choose others or read more "
            "text into the index"
        )
    left_out = index.meta["settings"].get("skip_tokens", ())
    places = _Places(tokens, counted(tokens, skip_positions, left_out))
    used = used_vocabulary(tokens, subject.model.d_vocab)
    chosen = torch.tensor(list(features), dtype=torch.int64, device="cpu")
    logits = logit_weights(subject.sae, subject.model, subject.hook_name, used, count=TASK_LAST, features=chosen)
    ends = zip(logits.top_ids.tolist(), logits.bottom_ids.tolist(), strict=True)
    weights = dict(zip(features, ends, strict=True))
    vocabulary = used.nonzero().flatten().numpy()
    out = []
    with tqdm(total=len(features), unit=kind.rstrip("s"), desc=f"examples of {kind}", disable=not progress) as bar:
        for start in range(0, len(features), batch):
            part = features[start : start + batch]
            picks = {f: _Pick(f, index, places, np.random.default_rng([seed, f])) for f in part}
            bar.update(len(part))
            part = [f for f in part if picks[f].explain and picks[f].test]
            examples = [(f, e) for f in part for e, _, _ in picks[f].all()]
            shown = iter(
                windows_of(
                    subject,
                    index,
                    examples,
                    before=SIDE,
                    after=SIDE,
                    characters=(1 << 20, 1 << 20),
                    skip_positions=skip_positions,
                )
            )
            for f in part:
                out.append(_case(subject.model, index, picks[f], shown, kind, weights[f], vocabulary, seed))
    return out


class _Places:
    """Where a window of nine tokens that all count fits, and where each token stands.

    A window with a BOS in it would ask for the activation of a token that has none.
    """

    def __init__(self, tokens: np.ndarray, counts: np.ndarray) -> None:
        self.tokens, self.length = tokens, tokens.shape[1]
        self.whole = np.zeros(tokens.shape, dtype=bool)  # by the middle of the window
        windows = np.lib.stride_tricks.sliding_window_view(counts, 2 * SIDE + 1, axis=1)
        self.whole[:, SIDE : self.length - SIDE] = windows.all(-1)
        self.middles = np.flatnonzero(self.whole)
        inner = tokens.reshape(-1)[self.middles]
        self.order = np.argsort(inner, kind="stable")
        self.sorted = inner[self.order]

    def fits(self, example: Example) -> bool:
        return bool(self.whole[example.row, example.position])

    def at(self, number: int) -> tuple[int, int]:
        """Row and position of a place by its number, 0 to ``len(middles)`` - 1."""
        return divmod(int(self.middles[number]), self.length)

    def of(self, token: int) -> np.ndarray:
        a, b = np.searchsorted(self.sorted, [token, token + 1])
        return self.order[a:b]


class _Pick:
    """The places of one feature: disjoint windows, none with the text of another."""

    def __init__(self, feature: int, index: FeatureIndex, places: _Places, random: np.random.Generator) -> None:
        self.feature, self.places, self.random = feature, places, random
        self.taken: dict[int, list[int]] = {}
        self.texts: set[bytes] = set()
        self.maximum = float(index.maximum[feature])
        pool = {(e.row, e.position): e for e in self._pool(index) if places.fits(e)}
        self.pool = sorted(pool.values(), key=lambda e: (-e.value, e.row, e.position))
        self.explain: list[tuple[Example, str, int]] = []
        self.test: list[tuple[Example, str, int]] = []
        strongest = self._take(self.pool, EXPLAIN[TOP] + TEST[TOP])
        self._share(strongest, TOP, TEST[TOP], LEVELS + 1)
        for level in range(LEVELS, 0, -1):
            target = self.maximum * level / (LEVELS + 1)
            nearest = sorted(self.pool, key=lambda e: abs(e.value - target))
            self._share(self._take(nearest, EXPLAIN[LEVEL] + TEST[LEVEL]), LEVEL, TEST[LEVEL], None)
        elsewhere = self._take(self._elsewhere([e for e in strongest]), EXPLAIN[ELSEWHERE] + TEST[ELSEWHERE])
        self._share(elsewhere, ELSEWHERE, TEST[ELSEWHERE], LEVELS + 1)
        drawn = self._take(self._anywhere(), EXPLAIN[RANDOM] + TEST[RANDOM] + SPARE)
        self.explain += [(e, RANDOM, 0) for e in drawn[: EXPLAIN[RANDOM]]]
        self.test += [(e, RANDOM, 0) for e in drawn[EXPLAIN[RANDOM] : EXPLAIN[RANDOM] + TEST[RANDOM]]]
        self.spare = [(e, RANDOM, 0) for e in drawn[EXPLAIN[RANDOM] + TEST[RANDOM] :]]
        self.test = [self.test[i] for i in self.random.permutation(len(self.test))]

    def all(self) -> list[tuple[Example, str, int]]:
        return [*self.explain, *self.test, *self.spare]

    def _pool(self, index: FeatureIndex) -> Iterable[Example]:
        yield from index.top(self.feature)
        for i in range(11):
            yield from index.interval(self.feature, i)
        yield from index.random(self.feature)

    def _take(self, candidates: Iterable[Example], count: int) -> list[Example]:
        """The first ``count`` candidates whose window neither overlaps a taken one nor repeats its text."""
        out = []
        for e in candidates:
            if len(out) == count:
                break
            near = self.taken.setdefault(e.row, [])
            if any(abs(e.position - p) <= 2 * SIDE for p in near):
                continue
            text = self.places.tokens[e.row, e.position - SIDE : e.position + SIDE + 1].tobytes()
            if text in self.texts:
                continue
            near.append(e.position)
            self.texts.add(text)
            out.append(e)
        return out

    def _share(self, examples: Sequence[Example], group: str, tested: int, interval: int | None) -> None:
        """Deal examples evenly over the ranking to explanation and test; a short supply is shared in proportion."""
        whole = tested + EXPLAIN[group]
        for i, e in enumerate(examples):
            to_test = (i + 1) * tested // whole > i * tested // whole
            own = interval or max(1, int(np.ceil(e.value / self.maximum * (LEVELS + 1) - 1e-9)))
            (self.test if to_test else self.explain).append((e, group, own))

    def _elsewhere(self, strongest: Sequence[Example]) -> Iterable[Example]:
        """Random places of the tokens on which the feature is most active, one token after the other."""
        tokens = list(dict.fromkeys(int(self.places.tokens[e.row, e.position]) for e in strongest))
        queues = [iter(self.random.permutation(self.places.of(t))[:400]) for t in tokens]
        while queues:
            for queue in list(queues):
                number = next(queue, None)
                if number is None:
                    queues.remove(queue)
                else:
                    yield Example(*self.places.at(number), 0.0)

    def _anywhere(self) -> Iterable[Example]:
        if not len(self.places.middles):
            return
        for number in self.random.integers(0, len(self.places.middles), 40 * SPARE):
            yield Example(*self.places.at(number), 0.0)


def _case(
    model: LanguageModel,
    index: FeatureIndex,
    pick: _Pick,
    shown: Iterator[Window],
    kind: str,
    weights: tuple[list[int], list[int]],
    vocabulary: np.ndarray,
    seed: int,
) -> Case:
    feature = pick.feature
    density, shares = float(index.density[feature]), interval_shares(index, feature, LEVELS + 1)

    def snippets(places: Sequence[tuple[Example, str, int]]) -> tuple[Snippet, ...]:
        out = []
        for (_, group, interval), window in zip(places, (next(shown) for _ in places), strict=True):
            flat = [t for piece in window.pieces for t in piece.tokens]
            weight = 1.0 if group == RANDOM else density * float(shares[interval - 1])
            texts, values = zip(*flat, strict=True)
            out.append(Snippet(tokens=texts, values=values, focus=SIDE, group=group, weight=weight, window=window))
        return tuple(out)

    explain, test, spare = snippets(pick.explain), snippets(pick.test), snippets(pick.spare)
    top_ids, bottom_ids = weights
    raised, others = top_ids[SHOWN_LOGITS:TASK_LAST], np.setdiff1d(vocabulary, top_ids)
    half = min(TASK_RANDOM, len(raised), len(others))  # less than 50 in a tiny vocabulary, but always as many of both
    random = np.random.default_rng([seed, feature, 1])
    task = [(t, True) for t in raised[:half]] + [(int(t), False) for t in random.permutation(others)[:half]]
    task = [task[i] for i in random.permutation(len(task))]
    top_tokens = {int(pick.places.tokens[e.row, e.position]) for e in index.top(feature)[:20]}
    strings = lambda ids: tuple(model.token_str(t) for t in ids)
    return Case(
        kind=kind,
        feature=feature,
        density=density,
        maximum=float(index.maximum[feature]),
        explain=explain,
        test=test,
        spare=spare,
        positive=strings(top_ids[:SHOWN_LOGITS]),
        negative=strings(bottom_ids[:SHOWN_LOGITS]),
        task=strings(t for t, _ in task),
        plausible=tuple(raised for _, raised in task),
        single_token=len(top_tokens) == 1,
    )


def interval_shares(index: FeatureIndex, feature: int, intervals: int) -> np.ndarray:
    """The share of the feature's active tokens in each of equal intervals from 0 to its maximum, lowest first."""
    histogram = index.histogram(feature)
    counts = np.asarray(histogram.counts, dtype=np.float64).sum(0)
    edges = np.linspace(0.0, float(histogram.upper), len(counts) + 1)
    below = np.concatenate([[0.0], counts.cumsum()])
    at = np.linspace(0.0, float(index.maximum[feature]), intervals + 1)
    held = np.interp(at, edges, below)
    held[-1] = below[-1]  # the maximum ends the last interval, wherever rounding puts it in its bin
    return np.diff(held) / max(1.0, below[-1])
