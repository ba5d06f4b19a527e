"""SAEDashboard's batches for Neuronpedia: ``run_settings.json`` and ``batch-N.json``."""

from __future__ import annotations

import json
from pathlib import Path

from monosem.analysis.dashboard.exports.feature_rows import BATCH, EACH, TOP, FeatureRows
from monosem.analysis.index import INTERVALS
from monosem.data import files


def write(rows: FeatureRows, folder: Path) -> Path:
    """Write all batches, the settings last: a folder without them is incomplete."""
    folder.mkdir(parents=True, exist_ok=True)
    meta = rows.index.meta
    batches = 0
    for number, features in rows.batches():
        for feature in features:
            for activation in feature["activations"]:
                del activation["row"]
        content = {
            "model_id": rows.model_id,
            "layer": rows.layer,
            "sae_set": rows.source_set,
            "sae_id_suffix": None,
            "features": features,
        }
        files.write_text(folder / f"batch-{number}.json", json.dumps(content, ensure_ascii=False, allow_nan=False))
        batches += 1
    settings = {
        "sae_set": rows.source_set,
        "sae_path": meta["notes"].get("folder"),
        "np_set_name": rows.source_set,
        "np_sae_id_suffix": None,
        "huggingface_dataset_path": rows.dataset,
        "model_id": rows.model_id,
        "layer": rows.layer,
        "hook_name": rows.hook,
        "n_features": rows.index.d_sae,
        "n_features_at_a_time": BATCH,
        "n_batches": batches,
        "n_prompts_total": meta["rows_read"],
        "n_tokens_in_prompt": meta["n_ctx"],
        "n_quantiles": INTERVALS,
        "top_acts_group_size": TOP,
        "quantile_group_size": EACH,
    }
    files.write_text(folder / "run_settings.json", json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
    return folder
