"""The statistics of an index, updated block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from monosem.analysis.index.activation_histograms import ActivationHistograms
from monosem.analysis.index.cooccurrence import Cooccurrence
from monosem.analysis.index.neuron_moments import NeuronMoments
from monosem.analysis.index.reservoir import Reservoir
from monosem.analysis.index.settings import IndexSettings
from monosem.analysis.index.space_saving import SpaceSaving
from monosem.analysis.scan import Block
from monosem.analysis.sources import SourceMoments
from monosem.distributed.peers import Peers


class Collector:
    """Reads blocks (``update``); its memory depends on the width, the sources and the settings, not on the text.

    Args:
        shape: (rows, tokens per row) of the whole text; places count over all of it.
        marks: {name: bool [rows, tokens per row]}: further columns of the histogram, next to the sources.
        replayed: tokens and partners kept of a feature, which depend on the order of the text, are counted by
            ``replay`` when all of it is there: of several processes each reads a part.
    """

    def __init__(
        self,
        d_sae: int,
        d_in: int,
        d_vocab: int,
        sources: Sequence[str],
        shape: tuple[int, int],
        settings: IndexSettings,
        marks: Mapping[str, np.ndarray] | None = None,
        replayed: bool = False,
    ) -> None:
        self.settings, self.length, self.d_sae, self._replayed = settings, shape[1], d_sae, replayed
        self.marks = [torch.from_numpy(np.ascontiguousarray(m, dtype=bool)).flatten() for m in (marks or {}).values()]
        wide = shape[0] * shape[1] >= 1 << 31
        s = settings
        self.tokens = torch.zeros((), dtype=torch.int64, device="cpu")
        self.maximum = torch.zeros(d_sae, dtype=torch.float32, device="cpu")
        self.top = Reservoir(d_sae, s.top, "value", wide=wide)
        self.random = Reservoir(d_sae, s.random, "random", 2 * s.seed, wide)
        columns = len(sources) + len(self.marks)
        self.histograms = ActivationHistograms(d_sae, columns, s.bins, s.each, 2 * s.seed + 1, wide)
        self.fired_on = SpaceSaving(d_sae, d_vocab, s.slots)
        self.cooccurrence = Cooccurrence(d_sae, s.slots, replayed)
        self.neuron_moments = NeuronMoments(d_sae, d_in) if s.neurons else None
        self.moments = SourceMoments(d_sae, sources)

    def update(self, block: Block) -> None:
        """Read one block."""
        features, values, places = block.features, block.values, block.places
        self.tokens += len(block.source)
        self.maximum.scatter_reduce_(0, features, values, "amax")
        self.moments.update(block)
        self.histograms.update(features, values, places, self._columns(block, places))
        self.random.update(features, values, places)
        best = self._best_of_row(features, values, places)
        self.top.update(features[best], values[best], places[best])
        scored = block.tokens.flatten()[block.where]
        if not self._replayed:
            self.fired_on.update(features, scored[block.at], values)
        self.cooccurrence.update(features, values, block.at, len(scored))
        if self.neuron_moments is not None:
            self.neuron_moments.update(features, values, block.at, block.x)

    def replay(self, features: Tensor, values: Tensor, places: Tensor, tokens: Tensor, own: slice) -> None:
        """Count the tokens and the partners of some features in a block.

        Args:
            features, values, places: its entries, as ``update`` had them.
            tokens: those of the whole text, flat.
        """
        mine = (features >= own.start) & (features < own.stop)
        self.fired_on.update(features[mine], tokens[places[mine]].long(), values[mine])
        at = torch.unique_consecutive(places, return_inverse=True)[1]
        self.cooccurrence.replay(features, values, at, int(at[-1]) + 1, own)

    def merge(self, peers: Peers, own: slice) -> None:
        """Make this the statistics of all processes, in the first one. Each has read consecutive rows.

        Counts, samples and examples are those of a single process, sums too but for their rounding.

        Args:
            own: the features of which this one has replayed the whole text.
        """
        peers.add_(self.tokens)
        peers.most_(self.maximum)
        self.moments.add_over(peers)
        for examples in (self.top, self.random, self.histograms):
            examples.merge(peers)
        self.fired_on.put_together(peers, own)
        self.cooccurrence.merge(peers, own)
        if self.neuron_moments is not None:
            self.neuron_moments.add_over(peers)

    def _columns(self, block: Block, places: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Columns of the histogram to which the entries belong: one source each, and any number of marks."""
        columns = [(torch.arange(len(places), device="cpu"), block.source[block.at])]
        for number, mark in enumerate(self.marks):
            chosen = mark[places].nonzero().flatten()
            columns.append((chosen, torch.full_like(chosen, len(self.moments.sources) + number)))
        return columns

    def _best_of_row(self, features: Tensor, values: Tensor, places: Tensor) -> Tensor:
        """Entry numbers: for each feature and row the largest entry, if it can still enter the top."""
        new = self.top.clears(features, values, places).nonzero().flatten()
        order = new[torch.argsort(values[new], descending=True, stable=True)]
        rows = places[order] // self.length
        group = features[order] * (int(rows.max()) + 1 if len(rows) else 1) + rows
        by_group = torch.argsort(group, stable=True)
        group = group[by_group]
        first = torch.ones_like(group, dtype=torch.bool)
        first[1:] = group[1:] != group[:-1]
        return order[by_group[first]]

    def arrays(self) -> dict[str, Tensor]:
        """All arrays by name; not copies."""
        moments = {k: getattr(self.moments, k) for k in ("square", "mass", "active", "tokens")}
        parts = {
            "top": self.top.arrays(),
            "random": self.random.arrays(),
            "levels": self.histograms.arrays(),
            "words": self.fired_on.arrays(),
            "together": self.cooccurrence.arrays(),
            "moments": moments,
            "crossed": self.neuron_moments.arrays() if self.neuron_moments is not None else {},
        }
        flat = {f"{part}.{name}": array for part, own in parts.items() for name, array in own.items()}
        return {"tokens": self.tokens, "maximum": self.maximum} | flat

    def restore(self, arrays: Mapping[str, Tensor]) -> None:
        """Take the state of another collector of the same kind."""
        for name, mine in self.arrays().items():
            mine.copy_(arrays[name])

    def finish(self) -> dict[str, Tensor]:
        """The arrays that an index stores, with the partners in place of the counts of pairs."""
        arrays = {k: v for k, v in self.arrays().items() if not k.startswith("together.")}
        ids, counts = self.cooccurrence.partners(int(self.tokens))
        return arrays | {"partners.ids": ids, "partners.counts": counts, "partners.active": self.cooccurrence.active}
