"""A planted dictionary: activations made of known features with frequencies, correlations and hierarchies of a law."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from monosem import ops
from monosem.data.forest import Hierarchy
from monosem.data.seeded import SeededBatches, check_count, check_share
from monosem.ops import SparseCode
from monosem.ops.memory import check_memory

HELD_OUT = 1 << 40  # number of the first held-out batch: no run of training reads so many
_ROWS = 1 << 16  # directions drawn at a time


@dataclass(frozen=True)
class Topics:
    """Features that are active together: each belongs to one topic, and topics come and go from token to token.

    A feature of marginal probability p is active with probability p·(1 + κ·(1 − t)/t) on a token that has its topic and
    p·(1 − κ) on any other, t the probability of a topic and κ the ``coupling``. Hence P(i and j) = p_i·p_j·(1 +
    κ²·(1 − t)/t) for two features of one topic, and p_i·p_j for features of different topics.

    Attributes:
        count: number of topics; feature i of those without a parent belongs to topic i mod ``count``.
        probability: t, of each topic on each token, independently.
        coupling: κ: 0, independent features; 1, none without its topic.
    """

    count: int
    probability: float = 0.1
    coupling: float = 0.5

    def __post_init__(self) -> None:
        check_count("topics.count", self.count)
        check_share("topics.coupling", self.coupling)
        check_share("topics.probability", self.probability, below=True)
        if not self.probability:
            raise ValueError("topics.probability: got 0; wanted a number above 0 and below 1")

    @property
    def lift(self) -> float:
        """P(feature | its topic) / P(feature)."""
        return 1 + self.coupling * (1 - self.probability) / self.probability


class PlantedDictionary(SeededBatches):
    r"""x = Σ over the active features i of a token, v_i·f_i (+ noise): an endless iterable of [N, d_in].

    Directions f_i have unit length and are uniform on the sphere (mean absolute cosine √(2/π·d_in)), or at a given
    cosine with their parent's. The ``hierarchy``'s roots (features 0, 1, …), then the features without a tree are
    active with probability ∝ rank^−exponent, at most ``max_probability``, scaled so that a token has ``active`` active
    features in the mean; below a root, ``Hierarchy`` says which. ``topics`` correlates those without a parent. A value
    is m·|1 + magnitude_std·ε|, ε standard normal, m = 1 (a child's: ``Hierarchy.magnitude``).

    Batch number b depends on the arguments and b only. Memory and time of a batch grow with its active features, not
    with tokens × features: a feature is active with probability p exactly where a Poisson number of mean −ln(1 − p) is
    above 0, so only the arrivals of that process are drawn.

    The laws are those of SynthSAEBench (Chanin & Garriga-Alonso 2026, arXiv 2602.14687: Zipfian probabilities,
    correlations, parents that gate exclusive children, children scaled by their parent), with topics in place of its
    Gaussian copula, which needs a number per token and feature.

    Args:
        n_features: F.
        active: mean number of active features per token.
        exponent: of the Zipfian law; 0: all are equally frequent.
        magnitude_std: standard deviation of a value, relative to its mean.
        noise: standard deviation of Gaussian noise added to every coordinate.
        dtype: of the directions and the batches.

    Attributes:
        features: the true directions [F, d_in].
        parents: int64 [F], −1 for a feature without a parent.
        depths: int64 [F], 0 for a feature without a parent.
        probabilities: P(feature is active), float64 [F].

    Raises:
        ValueError: arguments that do not fit together, or directions that do not fit into memory.
    """

    made = "planted activations"

    def __init__(
        self,
        d_in: int,
        n_features: int,
        active: float,
        seed: int = 0,
        *,
        exponent: float = 0.5,
        max_probability: float = 0.4,
        hierarchy: Hierarchy | None = None,
        topics: Topics | None = None,
        magnitude_std: float = 0.1,
        noise: float = 0.0,
        batch_size: int = 4096,
        batches: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        for name, value in (("d_in", d_in), ("n_features", n_features), ("batch_size", batch_size)):
            check_count(name, value)
        for name, value in (("exponent", exponent), ("magnitude_std", magnitude_std), ("noise", noise)):
            if not value >= 0:
                raise ValueError(f"{name}: got {value!r}; wanted a number ≥ 0")
        check_share("max_probability", max_probability, below=True)
        if not dtype.is_floating_point:
            raise ValueError(f"dtype: got {dtype}; wanted a floating type")
        if hierarchy is not None and hierarchy.size > n_features:
            raise ValueError(
                f"hierarchy: got {hierarchy.size} features in {hierarchy.trees} trees; wanted at most "
                f"n_features={n_features}. Give fewer trees, or less depth or branching."
            )
        super().__init__(d_in, seed, batch_size, batches)
        self.n_features, self.active, self.exponent, self.max_probability = (
            n_features,
            active,
            exponent,
            max_probability,
        )
        self.hierarchy, self.topics = hierarchy, topics
        self.magnitude_std, self.noise, self.dtype = magnitude_std, noise, dtype
        self._trees = hierarchy.trees if hierarchy else 0
        self._in_trees = hierarchy.size if hierarchy else 0
        self.parents = torch.full((n_features,), -1, dtype=torch.int64, device="cpu")
        self.depths = torch.zeros(n_features, dtype=torch.int64, device="cpu")
        if hierarchy:
            self.parents[: self._in_trees] = hierarchy.parents()
            self.depths[: self._in_trees] = hierarchy.depths()
        free = self._free_probabilities()
        self.probabilities = self._marginals(free)
        self._arrivals = _Arrivals(free, topics)
        self.features = self._directions()

    def batch(self, number: int) -> Tensor:
        """Batch ``number`` (from 0): [batch_size, d_in]."""
        return self.batch_and_code(number)[0]

    def batch_and_code(self, number: int) -> tuple[Tensor, SparseCode]:
        """Batch ``number``, and the values of its features: a code of F features in CSR form, float32."""
        rng = self.generator(1 + number)
        code = self._code(rng)
        zero = torch.zeros(self.d_in, dtype=self.dtype, device="cpu")
        x = ops.sparse_decode(*code.csr(), self.features, zero)
        if self.noise:
            x = x + self.noise * torch.randn(x.shape, generator=rng, dtype=torch.float32, device="cpu").to(x.dtype)
        return x, code

    def held_out(self, batches: int) -> Iterator[tuple[Tensor, SparseCode]]:
        """Batches that no training reads, with their codes: the same ones at each call."""
        for number in range(batches):
            yield self.batch_and_code(HELD_OUT + number)

    def settings(self) -> dict[str, Any]:
        names = ("d_in", "n_features", "active", "seed", "exponent", "max_probability", "magnitude_std", "noise")
        return {name: getattr(self, name) for name in (*names, "batch_size")} | {
            "hierarchy": asdict(self.hierarchy) if self.hierarchy else None,
            "topics": asdict(self.topics) if self.topics else None,
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def _code(self, rng: torch.Generator) -> SparseCode:
        tokens, free = self._arrivals.draw(self.batch_size, rng)
        features = torch.where(free < self._trees, free, free + (self._in_trees - self._trees))
        values = self._spread(len(tokens), rng)
        parts = [(tokens, features, values)]
        if self.hierarchy:
            inner = (features < self._trees).nonzero()[:, 0]  # the roots
            tokens, features, values = tokens[inner], features[inner], values[inner]
            for level in range(1, self.hierarchy.depth + 1):
                at, features = self.hierarchy.draw_children(features, rng)
                scale = values[at] if self.hierarchy.scaled else self.hierarchy.magnitude ** (level - 1)
                tokens, values = tokens[at], self.hierarchy.magnitude * scale * self._spread(len(at), rng)
                parts.append((tokens, features, values))
        tokens, features, values = (torch.cat(part) for part in zip(*parts, strict=True))
        order = torch.argsort(tokens * self.n_features + features)
        counts = torch.bincount(tokens, minlength=self.batch_size)
        return SparseCode(
            values=values[order],
            indices=features[order].int(),
            offsets=F.pad(counts.cumsum(0), (1, 0)),
            d_sae=self.n_features,
            shape=torch.Size([self.batch_size]),
        )

    def _spread(self, n: int, rng: torch.Generator) -> Tensor:
        """|1 + magnitude_std·ε|."""
        return (1 + self.magnitude_std * torch.randn(n, generator=rng, dtype=torch.float32, device="cpu")).abs()

    def _free_probabilities(self) -> Tensor:
        """P(active) of the features without a parent, by rank: the roots, then those without a tree."""
        free = self.n_features - self._in_trees + self._trees
        law = torch.arange(1, free + 1, dtype=torch.float64, device="cpu") ** -self.exponent
        weight = torch.ones(free, dtype=torch.float64, device="cpu")
        if self.hierarchy:
            weight[: self._trees] = self.hierarchy.per_root()
        most = float(self.max_probability * weight.sum())
        if not 0 < self.active <= most:
            raise ValueError(
                f"active: got {self.active!r}; wanted a mean number of active features above 0, at most {most:.4g}: "
                f"all at max_probability={self.max_probability}"
            )
        low, high = 0.0, float(self.max_probability / law[-1])  # here all are at the cap
        for _ in range(64):  # bisection to the last bit: the sum grows with the scale
            middle = (low + high) / 2
            total = float(((middle * law).clamp(max=self.max_probability) * weight).sum())
            low, high = (middle, high) if total < self.active else (low, middle)
        return (high * law).clamp(max=self.max_probability)

    def _marginals(self, free: Tensor) -> Tensor:
        if not self.hierarchy:
            return free
        levels = [free[: self._trees]]
        for _ in range(self.hierarchy.depth):
            levels.append((levels[-1][:, None] * self.hierarchy.conditional()).flatten())
        return torch.cat([*levels, free[self._trees :]])

    def _directions(self) -> Tensor:
        check_memory(
            self.n_features * self.d_in * self.dtype.itemsize,
            f"directions of {self.n_features:,} features, {self.d_in:,} wide,",
            "n_features",
        )
        rng = self.generator(0)
        features = torch.empty(self.n_features, self.d_in, dtype=self.dtype, device="cpu")
        cosine = self.hierarchy.cosine if self.hierarchy else 0.0
        # A block holds no feature together with its parent: a child stands behind its level's first.
        edges = sorted({*range(0, self.n_features, _ROWS), *(self.hierarchy.starts() if self.hierarchy else ())})
        for start, end in zip(edges, [*edges[1:], self.n_features], strict=True):
            rows = torch.randn(end - start, self.d_in, generator=rng, dtype=torch.float32, device="cpu")
            rows = F.normalize(rows, dim=1)
            parent = self.parents[start:end]
            if cosine and int(parent[0]) >= 0:
                above = features[parent].float()
                rows = F.normalize(rows - (rows * above).sum(1, keepdim=True) * above, dim=1)
                rows = cosine * above + (1 - cosine**2) ** 0.5 * rows
            features[start:end] = rows
        return features


class _Arrivals:
    """Draws which of independent features, or of features with topics, are active: by token, without all pairs."""

    def __init__(self, probabilities: Tensor, topics: Topics | None) -> None:
        self.features, self.topics = len(probabilities), topics
        if topics is None:
            self._everywhere = _rates(probabilities).cumsum(0)
            return
        if topics.count > self.features:
            raise ValueError(
                f"topics.count: got {topics.count}; wanted at most the {self.features} features without a parent"
            )
        if (largest := float(probabilities.max()) * topics.lift) >= 1:
            raise ValueError(
                f"topics: got a lift of {topics.lift:.4g}, so that the most frequent feature would be active with "
                f"probability {largest:.3g} where its topic is; wanted below 1. Lower the coupling or max_probability, "
                "or raise topics.probability."
            )
        without = _rates((1 - topics.coupling) * probabilities)
        self._everywhere = without.cumsum(0)
        self._of_topics = _rates(
            torch.full((topics.count,), topics.probability, dtype=torch.float64, device="cpu")
        ).cumsum(0)
        more = _rates(topics.lift * probabilities) - without
        topic = torch.arange(self.features, device="cpu") % topics.count
        self._members = torch.argsort(topic, stable=True)  # topic after topic
        self._more = more[self._members].cumsum(0)
        self._ends = torch.bincount(topic, minlength=topics.count).cumsum(0)

    def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """The active pairs of n tokens: (tokens, features), int64, sorted by token, then feature."""
        keys = _draw(self._everywhere, n, rng)
        if self.topics is not None:
            keys = torch.cat([keys, self._draw_in_topics(n, rng)])
        keys = torch.unique(keys)
        return keys // self.features, keys % self.features

    def _draw_in_topics(self, n: int, rng: torch.Generator) -> Tensor:
        """Arrivals that a token has because of its topics: token·features + feature, with repetitions."""
        assert self.topics is not None
        present = torch.unique(_draw(self._of_topics, n, rng))
        token, topic = present // self.topics.count, present % self.topics.count
        upper = F.pad(self._more[self._ends - 1], (1, 0))  # rates before and behind each topic's members
        arrivals = torch.poisson((upper[1:] - upper[:-1])[topic], generator=rng).long()
        token, topic = torch.repeat_interleave(token, arrivals), torch.repeat_interleave(topic, arrivals)
        draw = torch.rand(len(token), generator=rng, dtype=torch.float64, device="cpu")
        place = torch.searchsorted(self._more, torch.lerp(upper[topic], upper[topic + 1], draw), right=True)
        first = F.pad(self._ends, (1, 0))[topic]
        place = torch.minimum(torch.maximum(place, first), self._ends[topic] - 1)  # a draw may be rounded over an edge
        return token * self.features + self._members[place]


def _rates(probabilities: Tensor) -> Tensor:
    """The means of Poisson numbers that are above 0 with these probabilities."""
    return -torch.log1p(-probabilities)


def _draw(cumulative: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """Poisson arrivals of n tokens at rates given by their running sum: token·len + place, with repetitions."""
    total = float(cumulative[-1])
    arrivals = int(torch.poisson(torch.tensor(n * total, dtype=torch.float64, device="cpu"), generator=rng))
    draw = torch.rand(arrivals, generator=rng, dtype=torch.float64, device="cpu")
    # Tokens are drawn independently: sorting the others first changes no law, and the search stays in cache.
    place = torch.searchsorted(cumulative, draw.sort().values * total, right=True).clamp_(max=len(cumulative) - 1)
    return torch.randint(n, (arrivals,), generator=rng, device="cpu") * len(cumulative) + place
