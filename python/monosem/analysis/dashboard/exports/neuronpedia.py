"""Neuronpedia's exports: gzipped JSON lines under ``v1/MODEL/SOURCE``."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from monosem.analysis.dashboard.exports.feature_rows import FeatureRows
from monosem.data import files

CREATOR = "monosem"  # to be replaced by the importer's own user
# Fields of a feature that keep SAEDashboard's names.
_SAME = (
    "neuron_alignment_indices",
    "neuron_alignment_values",
    "neuron_alignment_l1",
    "correlated_neurons_indices",
    "correlated_neurons_pearson",
    "correlated_neurons_l1",
    "correlated_features_indices",
    "correlated_features_pearson",
    "correlated_features_l1",
    "neg_str",
    "neg_values",
    "pos_str",
    "pos_values",
    "frac_nonzero",
    "freq_hist_data_bar_heights",
    "freq_hist_data_bar_values",
    "logits_hist_data_bar_heights",
    "logits_hist_data_bar_values",
    "decoder_weights_dist",
)


def write(rows: FeatureRows, folder: Path) -> Path:
    """Write features and activations in batches, then model, release and source; returns the folder of the source."""
    root = folder / "v1" / rows.model_id / rows.source_id
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    for part in ("features", "activations"):
        (root / part).mkdir(parents=True, exist_ok=True)
    for number, features in rows.batches():
        _lines(root / "features" / f"batch-{number}.jsonl.gz", (feature(rows, f, now) for f in features))
        _lines(
            root / "activations" / f"batch-{number}.jsonl.gz",
            (activation(rows, f, n, a, now) for f in features for n, a in enumerate(f["activations"])),
        )
    for name, row in _belongings(rows, now).items():
        files.write_text(root / f"{name}.jsonl", json.dumps(row, ensure_ascii=False) + "\n")
    return root


def feature(rows: FeatureRows, f: Mapping[str, Any], now: str) -> dict[str, Any]:
    number = f["feature_index"]
    near, cosines = rows.table.neighbours[number].tolist(), rows.table.cosines[number].tolist()
    return {
        "modelId": rows.model_id,
        "layer": rows.source_id,
        "index": str(number),
        "creatorId": CREATOR,
        "createdAt": now,
        "sourceSetName": rows.source_set,
        "hookName": rows.hook,
        "maxActApprox": float(rows.index.maximum[number]),
        "hasVector": True,
        "vector": f["vector"],
        "vectorLabel": None,
        "vectorDefaultSteerStrength": 10,
        "topkCosSimIndices": near,
        "topkCosSimValues": [round(c, 4) for c in cosines],
    } | {name: f[name] for name in _SAME}


def activation(rows: FeatureRows, f: Mapping[str, Any], n: int, a: Mapping[str, Any], now: str) -> dict[str, Any]:
    values = a["values"]
    largest = max(range(len(values)), key=values.__getitem__)
    return {
        "id": identity(rows.model_id, rows.source_id, f["feature_index"], n),
        "tokens": a["tokens"],
        "dataIndex": str(a["row"]),
        "index": str(f["feature_index"]),
        "layer": rows.source_id,
        "modelId": rows.model_id,
        "dataSource": rows.dataset,
        "maxValue": values[largest],
        "maxValueTokenIndex": largest,
        "minValue": min(values),
        "values": values,
        "dfaValues": [],
        "dfaTargetIndex": None,
        "dfaMaxValue": None,
        "creatorId": CREATOR,
        "createdAt": now,
        "lossValues": [],
        "logitContributions": None,
        "binMin": a["bin_min"],
        "binMax": a["bin_max"],
        "binContains": a["bin_contains"],
        "qualifyingTokenIndex": a["qualifying_token_index"],
    }


def identity(*parts: Any) -> str:
    """An id in the form of a CUID, the same every time."""
    number = int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest(), "big")
    digits = ""
    for _ in range(24):
        number, digit = divmod(number, 36)
        digits += "0123456789abcdefghijklmnopqrstuvwxyz"[digit]
    return "c" + digits


def _belongings(rows: FeatureRows, now: str) -> dict[str, dict[str, Any]]:
    model, release = rows.model_id, f"{rows.model_id}-{rows.source_set}"
    own = {"creatorId": CREATOR, "createdAt": now}
    return {
        "model": own | {"id": model, "displayName": rows.subject.model.name, "layers": _layers(rows)},
        "release": own | {"name": release, "description": f"{rows.index.d_sae:,} features of {rows.hook}"},
        "sourceset": own | {"modelId": model, "name": rows.source_set, "releaseName": release, "hasDashboards": True},
        "source": own
        | {
            "id": rows.source_id,
            "modelId": model,
            "setName": rows.source_set,
            "dataset": rows.dataset,
            "hookPoint": rows.hook,
            "num_prompts": rows.index.meta["rows_read"],
            "num_tokens_in_prompt": rows.index.meta["n_ctx"],
            "hasDashboards": True,
        },
    }


def _layers(rows: FeatureRows) -> int:
    return len({name.split(".")[1] for name in rows.subject.model.hook_names if name.startswith("blocks.")})


def _lines(path: Path, content: Iterable[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in content)
    packed = gzip.compress(text.encode("utf-8"), compresslevel=6, mtime=0)
    files.write_whole(path, lambda part: part.write_bytes(packed))
