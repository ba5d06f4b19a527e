"""One feature in the terms that SAEDashboard and Neuronpedia share."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from monosem.analysis.dashboard.feature_table import FeatureTable, gather
from monosem.analysis.index import INTERVALS, Example, Index
from monosem.analysis.inputs import Subject
from monosem.analysis.logits import used_vocabulary
from monosem.analysis.windows import TextCache
from monosem.ops.precision import as_given

BATCH = 128  # features per file
BEFORE, AFTER = 40, 23  # tokens of an example around the one it is about
TOP, EACH, TABLE, BARS = 20, 5, 3, 50  # as SAEDashboard shows them


class FeatureRows:
    """The features of a dictionary, batch by batch, as plain data with the field names of SAEDashboard.

    Activations of features are not stored against each other: ``correlated_features_pearson`` is the correlation of
    firing (phi), and ``correlated_features_l1``, there the cosine similarity, the cosine of firing,
    n_fg / √(n_f·n_g), over the tokens that the index pairs.
    """

    def __init__(self, subject: Subject, index: Index, min_tokens: int, progress: bool) -> None:
        self.subject, self.index, self.progress = subject, index, progress
        self.texts, self.codes = TextCache(subject.model), index.codes
        self.table: FeatureTable = gather(subject, index, neurons=TABLE, progress=progress)
        if self.table.logits is None:
            raise ValueError(f"model: {subject.model.name!r} predicts no next token; these files hold logit weights")
        self.logits = self.table.logits
        self.features = (index.counts >= min_tokens).nonzero().flatten().tolist()
        used = used_vocabulary(np.asarray(index.rows.tokens).astype(np.int64), subject.model.d_vocab)
        self.directions = subject.model.logit_directions(subject.hook_name).detach().float().cpu()[:, used]
        self.hook, self.model_id = subject.hook_name, re.sub(r"[^\w.~-]+", "-", subject.model.name.strip("/"))
        layer = re.search(r"(?:^|\.)(\d+)\.", self.hook)
        self.layer = int(layer[1]) if layer else 0
        where = re.sub(r"^blocks\.\d+\.|hook_", "", self.hook).replace(".", "-").replace("_", "-")
        self.source_set = f"{where}-{index.meta['kind']}-{index.d_sae}"
        self.source_id = f"{self.layer}-{self.source_set}"
        self.dataset = str(index.meta["notes"].get("text", index.meta["text"]))

    def batches(self) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """(number of the batch, its features)."""
        with tqdm(total=len(self.features), unit="feature", desc="exporting", disable=not self.progress) as bar:
            for number, first in enumerate(range(0, len(self.features), BATCH)):
                batch = self.features[first : first + BATCH]
                heights, values = self._logit_bars(torch.tensor(batch, dtype=torch.int64, device="cpu"))
                yield (
                    number,
                    [
                        self._row(f) | {"logits_hist_data_bar_heights": h, "logits_hist_data_bar_values": v}
                        for f, h, v in zip(batch, heights, values, strict=True)
                    ],
                )
                bar.update(len(batch))

    @torch.no_grad()
    @as_given
    def _logit_bars(self, features: Tensor) -> tuple[list[list[int]], list[list[float]]]:
        """Histograms of all logit weights of some features: heights and the middles of the bars."""
        w = self.subject.sae.W_dec[features].detach().float().cpu() @ self.directions
        w -= w.median(1, keepdim=True).values
        low, high = w.min(1, keepdim=True).values, w.max(1, keepdim=True).values
        width = (high - low).clamp_min(1e-12) / BARS
        bar = ((w - low) / width).long().clamp_(max=BARS - 1)
        heights = torch.zeros(len(features), BARS, dtype=torch.int64, device="cpu").scatter_add_(
            1, bar, torch.ones_like(bar)
        )
        middles = low + width * (torch.arange(BARS, device="cpu") + 0.5)
        return heights.tolist(), [rounded(row) for row in middles.tolist()]

    def _row(self, f: int) -> dict[str, Any]:
        index = self.index
        words = lambda ids: [self.texts.token_str(i) for i in ids[f].tolist()]
        histogram = index.histogram(f)
        counts = histogram.counts.sum(0)
        step = histogram.upper / max(len(counts), 1)
        direction = self.subject.sae.W_dec[f].detach().float().cpu()
        return {
            "feature_index": f,
            **self._neurons(f, direction),
            **self._features(f),
            "neg_str": words(self.logits.bottom_ids),
            "neg_values": rounded(self.logits.bottom_values[f].tolist()),
            "pos_str": words(self.logits.top_ids),
            "pos_values": rounded(self.logits.top_values[f].tolist()),
            "frac_nonzero": float(index.density[f]),
            "freq_hist_data_bar_values": rounded([(i + 0.5) * step for i in range(len(counts))]),
            "freq_hist_data_bar_heights": counts.tolist(),
            "n_prompts_total": index.meta["rows_read"],
            "n_tokens_in_prompt": index.meta["n_ctx"],
            "dataset": self.dataset,
            "decoder_weights_dist": [],  # by attention head there; there are none at this hook
            "vector": rounded(direction.tolist(), 6),
            "activations": list(self._activations(f)),
        }

    def _neurons(self, f: int, direction: Tensor) -> dict[str, Any]:
        aligned = direction.topk(min(TABLE, len(direction))).indices
        out = {
            "neuron_alignment_indices": aligned.tolist(),
            "neuron_alignment_values": rounded(direction[aligned].tolist()),
            "neuron_alignment_l1": rounded((direction[aligned] / direction.abs().sum().clamp_min(1e-12)).tolist()),
            "correlated_neurons_indices": [],
            "correlated_neurons_pearson": [],
            "correlated_neurons_l1": [],
        }
        if self.table.neurons is not None and self.table.correlations is not None:
            best = self.table.neurons[f]
            out["correlated_neurons_indices"] = best.tolist()
            out["correlated_neurons_pearson"] = rounded(self.table.correlations[f].tolist())
            out["correlated_neurons_l1"] = rounded(
                self.index.neuron_cosines(torch.tensor([f], dtype=torch.int64, device="cpu"))[0, best].tolist()
            )
        return out

    def _features(self, f: int) -> dict[str, Any]:
        partners = self.index.coactive(f, TABLE)
        return {
            "correlated_features_indices": [p.feature for p in partners],
            "correlated_features_pearson": rounded([p.phi for p in partners]),
            "correlated_features_l1": rounded([p.cosine for p in partners]),
        }

    def _activations(self, f: int) -> Iterator[dict[str, Any]]:
        index = self.index
        maximum, n = float(index.maximum[f]), int(index.counts[f])
        for example in index.top(f, TOP):
            yield self._activation(f, example, -1.0, maximum, -1.0)
        values = self.codes.of(f)[1]
        for i in reversed(range(INTERVALS)):
            low, high = index.bounds(f, i)
            inside = int(((values > low) & ((values <= high) | (i == INTERVALS - 1))).sum())
            for example in index.interval(f, i, EACH):
                yield self._activation(f, example, low, high, inside / n)

    def _activation(self, f: int, example: Example, low: float, high: float, share: float) -> dict[str, Any]:
        first = max(0, example.position - BEFORE)
        end = min(self.index.length, example.position + AFTER + 1)
        ids = np.asarray(self.index.rows.tokens[example.row, first:end]).tolist()
        return {
            "bin_min": round(low, 3),
            "bin_max": round(high, 3),
            "bin_contains": round(share, 6),
            "tokens": [self.texts.token_str(i) for i in ids],
            "values": rounded(self.codes.window(f, example.row, first, end).tolist()),
            "qualifying_token_index": example.position - first,
            "row": example.row,
        }


def rounded(values: list[float], digits: int = 3) -> list[float]:
    """As SAEDashboard rounds."""
    return [round(v, digits) for v in values]
