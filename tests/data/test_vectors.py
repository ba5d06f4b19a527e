"""Vectors that were computed elsewhere, one per text, in the place of a model."""

import json

import numpy as np
import pytest
import torch

import monosem as ms
from monosem.analysis.inputs import load_rows
from monosem.data import fingerprint
from monosem.data.contexts import load_contexts
from monosem.data.vectors import HOOK, Vectors, save_vectors

N, D = 120, 6


@pytest.fixture
def made(tmp_path):
    vectors = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
    texts = [f"text {i}\nwith a line, “quotes” and \u2028 in it" for i in range(N)]
    sources = ["even" if i % 2 == 0 else "odd" for i in range(N)]
    return save_vectors(tmp_path / "vectors", vectors, texts, sources), vectors, texts, sources


def test_a_model_gives_each_text_its_vector(made):
    folder, vectors, texts, sources = made
    model = ms.load_model(folder)
    assert isinstance(model, Vectors) and model.hook_names == [HOOK] and model.width(HOOK) == D
    rows = model.rows("all")
    assert rows.tokens.tolist() == [[N, i] for i in range(N)]  # N is BOS
    assert [rows.sources[s] for s in rows.source[:, 1].tolist()] == sources
    found = model.activations(rows.tokens, HOOK)
    assert torch.equal(found[:, 1], vectors) and not found[:, 0].any()
    assert [model.text_within([i]) for i in range(N)] == texts
    with pytest.raises(ValueError, match="no hook 'vector'; nearest: vectors"):
        model.activations(rows.tokens, "vector")


def test_splits_are_those_of_text(made):
    model = ms.load_model(made[0])
    train, held = model.rows("train"), model.rows("held_out")
    assert len(held) == 2 and sorted(held.source[:, 1].tolist()) == [0, 1]  # 2 % of each source, one at least
    assert sorted([*train.tokens[:, 1].tolist(), *held.tokens[:, 1].tolist()]) == list(range(N))
    assert torch.equal(load_rows(model, split="held_out").tokens, held.tokens)
    assert np.array_equal(load_contexts(model, split="train"), train.tokens.numpy())
    with pytest.raises(ValueError, match="split: got 'test'; wanted 'train', 'held_out' or 'all'"):
        model.rows("test")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types(tmp_path, dtype):
    vectors = torch.randn(3, D, generator=torch.Generator().manual_seed(0)).to(dtype)
    model = ms.load_model(save_vectors(tmp_path / "v", vectors, ["a", "", "c"]))
    stored = np.load(tmp_path / "v" / "vectors.npy")
    assert stored.dtype == (np.float16 if dtype == torch.float16 else np.float32)
    found = model.activations(model.rows("all").tokens, HOOK)
    assert found.dtype == torch.float32 and torch.equal(found[:, 1], vectors.float())
    assert model.token_str(1) == "(empty)" and model.rows("all").sources == ["text"]
    with pytest.raises(ValueError, match="wanted at least two texts of a source"):
        save_vectors(tmp_path / "one", vectors[:1], ["a"]) and ms.load_model(tmp_path / "one").rows("held_out")


def test_arrays_on_disk(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(8, dtype=np.float32).reshape(4, 2))
    folder = save_vectors(tmp_path / "v", np.load(tmp_path / "x.npy", mmap_mode="r"), list("abcd"))
    assert ms.load_model(folder).activations(torch.tensor([[4, 3]]), HOOK)[0, 1].tolist() == [6, 7]


def test_a_fingerprint_is_of_vectors_and_texts(made, tmp_path):
    folder, vectors, texts, _ = made
    seen = {fingerprint.of_model(ms.load_model(folder))}
    for i, (x, words) in enumerate([(vectors, texts), (vectors + 1, texts), (vectors, texts[::-1])]):
        seen.add(fingerprint.of_model(ms.load_model(save_vectors(tmp_path / str(i), x, words))))
    assert len(seen) == 4  # the first has sources too


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vectors": torch.zeros(3)}, r"vectors: got float32 \[3\]; wanted floats \[texts, width\]"),
        ({"vectors": torch.zeros(0, 4)}, r"vectors: got float32 \[0, 4\]"),
        ({"vectors": np.zeros((3, 2), int)}, r"vectors: got int64 \[3, 2\]; wanted floats"),
        ({"vectors": np.array([[0, 0], [0, np.nan], [0, 0]])}, "vectors: number 1 holds NaN or Inf"),
        ({"texts": ["a", "b"]}, "texts: got 2 for 3 vectors; wanted one for each vector"),
        ({"texts": "abc"}, "texts: got one string for 3 vectors"),
        ({"texts": ["a", "b", 3]}, "texts: number 2 is 3; wanted a string"),
        ({"texts": ["a", "\ud800", "c"]}, "texts: number 1 holds a lone surrogate"),
        ({"sources": ["a"]}, "sources: got 1 for 3 vectors"),
    ],
)
def test_what_is_refused(tmp_path, change, message):
    given = {"vectors": torch.zeros(3, 2), "texts": list("abc"), "sources": None} | change
    with pytest.raises(ValueError, match=message):
        save_vectors(tmp_path / "v", **given)
    assert not (tmp_path / "v").exists()


def test_altered_files_are_refused(made):
    folder = made[0]
    lines = (folder / "texts.jsonl").read_text(encoding="utf-8")
    (folder / "texts.jsonl").write_text(lines.replace("text 7", "text 8"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"texts\.jsonl' is cut short or altered.*write the folder again"):
        ms.load_model(folder)
    (folder / "texts.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"no texts\.jsonl"):
        ms.load_model(folder)


def test_what_only_a_language_model_has_is_refused_by_name(made):
    model = ms.load_model(made[0])
    for call in (
        lambda: model.encode("a text"),
        lambda: model.logit_directions(HOOK),
        lambda: model.check_written(HOOK),
        lambda: model.token_losses(torch.tensor([[N, 0]])),
        lambda: model.generate([0], 3),
    ):
        with pytest.raises(ValueError, match="is a folder of vectors that were computed elsewhere"):
            call()
    with pytest.raises(ValueError, match=r"text: got 'other.jsonl'; .* holds vectors of its own texts"):
        load_rows(model, "other.jsonl")
    with pytest.raises(ValueError, match="context: got 128"):
        load_rows(model, n_ctx=128)
    with pytest.raises(ValueError, match="dtype: got 'bf16'; the model is a folder of vectors"):
        ms.load_model(made[0], dtype="bf16")


def test_the_figures_of_an_evaluation_are_those_of_the_vectors(made):
    folder, vectors, _, _ = made
    model, sae = ms.load_model(folder), ms.TopKSAE(D, 16, k=3, seed=0)
    found = ms.evaluate(sae, model, HOOK, load_rows(model, split="all"), progress=False)
    error = (sae(vectors) - vectors).square().detach()
    assert found.tokens == N and found.unit == "text"
    assert found.mse == pytest.approx(float(error.mean()), rel=1e-5)
    variance = (vectors - vectors.mean(0)).square().sum()
    assert found.explained_variance == pytest.approx(float(1 - error.sum() / variance), abs=1e-5)
    assert "120 scored texts of one vector each; none left out" in found.table()
    assert json.loads(json.dumps(found.to_dict()))["ce_clean"] is None
