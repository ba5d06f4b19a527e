"""Exports: the fields that SAEDashboard and Neuronpedia read, with the figures of the dense activations."""

import gzip
import json

import numpy as np
import pytest
import torch

from monosem.analysis.dashboard.exports import export
from monosem.analysis.index import IndexSettings, build_index
from monosem.analysis.inputs import Subject

# Fields of a feature in SAEDashboard's batches.
DASHBOARD = {
    "feature_index",
    "neuron_alignment_indices",
    "neuron_alignment_values",
    "neuron_alignment_l1",
    "correlated_neurons_indices",
    "correlated_neurons_l1",
    "correlated_neurons_pearson",
    "correlated_features_indices",
    "correlated_features_l1",
    "correlated_features_pearson",
    "neg_str",
    "neg_values",
    "pos_str",
    "pos_values",
    "frac_nonzero",
    "freq_hist_data_bar_values",
    "freq_hist_data_bar_heights",
    "logits_hist_data_bar_heights",
    "logits_hist_data_bar_values",
    "n_prompts_total",
    "n_tokens_in_prompt",
    "dataset",
    "activations",
    "decoder_weights_dist",
    "vector",
}
ACTIVATION = {"bin_min", "bin_max", "bin_contains", "tokens", "values", "qualifying_token_index"}
# Fields of the rows of Neuronpedia's exports.
FEATURE_ROW = {
    "modelId",
    "layer",
    "index",
    "creatorId",
    "createdAt",
    "maxActApprox",
    "hasVector",
    "vector",
    "vectorLabel",
    "vectorDefaultSteerStrength",
    "hookName",
    "topkCosSimIndices",
    "topkCosSimValues",
    "sourceSetName",
} | (DASHBOARD - {"feature_index", "n_prompts_total", "n_tokens_in_prompt", "dataset", "activations"})
ACTIVATION_ROW = {
    "id",
    "tokens",
    "index",
    "layer",
    "modelId",
    "maxValue",
    "maxValueTokenIndex",
    "minValue",
    "values",
    "creatorId",
    "dataSource",
    "dataIndex",
    "dfaValues",
    "dfaTargetIndex",
    "dfaMaxValue",
    "lossValues",
    "logitContributions",
    "binMin",
    "binMax",
    "binContains",
    "qualifyingTokenIndex",
    "createdAt",
}


@pytest.fixture
def subject(lossy, model, hook):
    return Subject(lossy, model, hook)


@pytest.fixture
def index(subject, rows, tmp_path):
    settings = IndexSettings(contexts=3)
    return build_index(subject, rows, tmp_path / "index", settings=settings, notes={"text": "words"}, progress=False)


@pytest.fixture
def dense(subject, rows):
    """[rows, T, F], zero on BOS."""
    f = subject.sae.encode(subject.model.E[torch.from_numpy(rows.tokens.astype(np.int64))]).to_dense().detach()
    f[:, 0] = 0
    return f


def test_saedashboard_batches_have_the_fields_and_figures_of_the_index(subject, index, dense, rows, tmp_path):
    out = export("saedashboard", subject, index, tmp_path / "out", progress=False)
    settings = json.loads((out / "run_settings.json").read_text())
    batch = json.loads((out / "batch-0.json").read_text())
    assert settings["n_batches"] == 1 and settings["n_prompts_total"] == 10 and settings["n_tokens_in_prompt"] == 12
    assert batch["model_id"] == "matrix" and batch["layer"] == 0 and batch["sae_set"] == "mlp-post-topk-20"
    assert [f["feature_index"] for f in batch["features"]] == (index.counts > 0).nonzero().flatten().tolist()
    flat = dense[:, 1:].flatten(0, 1).double()
    x = subject.model.E[torch.from_numpy(rows.tokens[:, 1:].astype(np.int64))].flatten(0, 1).double()
    for row in batch["features"]:
        assert set(row) == DASHBOARD
        f = row["feature_index"]
        mine = dense[..., f]
        n = int((mine > 0).sum())
        assert row["frac_nonzero"] == n / 110 and sum(row["freq_hist_data_bar_heights"]) == n
        assert sum(row["logits_hist_data_bar_heights"]) > 2
        assert len(row["logits_hist_data_bar_heights"]) == len(row["logits_hist_data_bar_values"]) == 50
        assert row["vector"] == pytest.approx(subject.sae.W_dec[f].tolist(), abs=1e-6)
        assert row["neuron_alignment_indices"] == subject.sae.W_dec[f].topk(3).indices.tolist()
        best = row["correlated_neurons_indices"][0]
        r = torch.corrcoef(torch.stack([flat[:, f], x[:, best]]))[0, 1]
        cosine = torch.nn.functional.cosine_similarity(flat[:, f], x[:, best], dim=0)
        assert row["correlated_neurons_pearson"][0] == pytest.approx(float(r), abs=1e-3)
        assert row["correlated_neurons_l1"][0] == pytest.approx(float(cosine), abs=1e-3)
        for g, phi, cos in zip(
            row["correlated_features_indices"],
            row["correlated_features_pearson"],
            row["correlated_features_l1"],
            strict=True,
        ):
            on = (flat[:, [f, g]] > 0).double()
            assert phi == pytest.approx(float(torch.corrcoef(on.T)[0, 1]), abs=1e-3)
            assert cos == pytest.approx(float(torch.nn.functional.cosine_similarity(*on.T, dim=0)), abs=1e-3)
        top = [a for a in row["activations"] if a["bin_contains"] == -1]
        assert top and all(a["bin_min"] == -1 and a["bin_max"] == round(float(mine.max()), 3) for a in top)
        for a in row["activations"]:
            assert set(a) == ACTIVATION and len(a["tokens"]) == len(a["values"])
            value = a["values"][a["qualifying_token_index"]]
            assert value > 0 and value <= float(mine.max()) + 1e-3
            if a["bin_contains"] != -1:
                assert a["bin_min"] - 1e-3 <= value <= a["bin_max"] + 1e-3
        shares = {a["bin_max"]: a["bin_contains"] for a in row["activations"] if a["bin_contains"] != -1}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-3)  # every interval with an entry has an example


def lines(path):
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]


def test_neuronpedia_files_have_the_fields_and_figures_of_the_index(subject, index, tmp_path):
    out = export("neuronpedia", subject, index, tmp_path / "out", progress=False)
    assert out == tmp_path / "out" / "v1" / "matrix" / "0-mlp-post-topk-20"
    features = lines(out / "features" / "batch-0.jsonl.gz")
    activations = lines(out / "activations" / "batch-0.jsonl.gz")
    assert [int(f["index"]) for f in features] == (index.counts > 0).nonzero().flatten().tolist()
    for row in features:
        assert set(row) == FEATURE_ROW
        assert row["maxActApprox"] == float(index.maximum[int(row["index"])])
    for row in activations:
        assert set(row) == ACTIVATION_ROW
        assert row["values"][row["maxValueTokenIndex"]] == row["maxValue"] == max(row["values"])
        assert row["id"][0] == "c" and len(row["id"]) == 25
    assert len({row["id"] for row in activations}) == len(activations)
    assert {row["layer"] for row in [*features, *activations]} == {"0-mlp-post-topk-20"}
    for name in ("model", "release", "source", "sourceset"):
        json.loads((out / f"{name}.jsonl").read_text())
    again = export("neuronpedia", subject, index, tmp_path / "again", progress=False)
    ids = [row["id"] for row in lines(again / "activations" / "batch-0.jsonl.gz")]
    assert ids == [row["id"] for row in activations]


def test_an_unknown_export_format_is_refused(subject, index, tmp_path):
    with pytest.raises(ValueError, match="export: got 'html'"):
        export("html", subject, index, tmp_path, progress=False)
