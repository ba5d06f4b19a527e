"""An index is used beside the model, the dictionary and the arrays that it was made with, and beside no others."""

import json
import shutil

import numpy as np
import pytest
from tiny import HOOK, tiny_documents, tiny_model

import monosem as ms
from monosem.analysis.index import build_index, open_index
from monosem.analysis.inputs import Subject
from monosem.cli.main import main
from monosem.data.harvest import harvest
from monosem.data.native import save_folder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    model = tiny_model()
    subject = Subject(ms.TopKSAE(32, 40, k=4, seed=0), model, HOOK)
    folder = tmp_path_factory.mktemp("belongs") / "index"
    build_index(subject, ms.pack_rows(tiny_documents(8), model), folder, progress=False)
    return folder, subject


def retrained(subject):
    other = tiny_model(seed=7)
    other.name = subject.model.name
    return Subject(subject.sae, other, HOOK)


def as_before(folder, to, *fields):
    """A copy as an older version wrote it: no digests, and none of ``fields``."""
    shutil.copytree(folder, to)
    meta = json.loads((to / "index.json").read_text())
    for name in ("digests", "sha256", *fields):
        del meta[name]
    (to / "index.json").write_text(json.dumps(meta))
    return to


def test_an_index_of_another_model_of_the_same_name_is_refused(built):
    folder, subject = built
    with pytest.raises(ValueError, match=r"index of another model: weights is 'LanguageModel .* there and 'Lang"):
        open_index(folder, retrained(subject))
    renamed = tiny_model()
    renamed.name = "moved elsewhere"
    open_index(folder, Subject(subject.sae, renamed, HOOK))


def test_an_unfinished_index_of_another_model_is_not_resumed(built, tmp_path):
    folder, subject = built
    shutil.copytree(folder, tmp_path / "index")
    rows = ms.pack_rows(tiny_documents(8), subject.model)
    with pytest.raises(ValueError, match="is of something else: its weights"):
        build_index(retrained(subject), rows, tmp_path / "index", progress=False)


def test_an_index_without_fingerprint_of_weights_is_opened_with_a_warning(built, tmp_path):
    folder = as_before(built[0], tmp_path / "index", "weights")
    with pytest.warns(RuntimeWarning, match="whether it is of this 'tiny' cannot be checked"):
        open_index(folder, built[1])


@pytest.mark.parametrize("name", ["maximum", "levels.counts", "codes.values", "text.tokens", "words.ids"])
def test_an_array_of_another_shape_is_refused(built, tmp_path, name):
    folder = as_before(built[0], tmp_path / "index")
    array = np.load(folder / f"{name}.npy")
    np.save(folder / f"{name}.npy", array[:-1])
    with (
        pytest.warns(RuntimeWarning, match="without checksums"),
        pytest.raises(ValueError, match=f"{name}.npy.* has shape"),
    ):
        open_index(folder, built[1])


def test_commands_refuse_an_index_of_another_model_in_one_line(tmp_path, capsys):
    """A model trained anew in its folder, a dictionary that does not know of which weights it is, and its index."""
    model = tiny_model()
    save_folder(tmp_path / "model", model.module, model.tokenizer)
    lines = [json.dumps({"source": d.source, "text": d.text}) for d in tiny_documents(8)]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    known = {"model": str(tmp_path / "model"), "hook_name": HOOK}
    ms.save(ms.TopKSAE(32, 40, k=4, seed=0), tmp_path / "run", known)
    words = [str(tmp_path / "run"), "--text", str(tmp_path / "text.jsonl"), "--quiet"]
    assert main(["index", *words]) == 0
    other = tiny_model(seed=7)
    shutil.rmtree(tmp_path / "model")
    save_folder(tmp_path / "model", other.module, other.tokenizer)
    capsys.readouterr()
    for verb in ("features", "explain", "index"):
        assert main([verb, *words]) == 2, verb
        error = capsys.readouterr().err
        assert "weights" in error and len(error.strip().splitlines()) == 1, error


def test_stored_activations_of_another_model_are_refused(tmp_path):
    model = tiny_model()
    tokens = ms.pack_rows(tiny_documents(8), model).tokens
    store = harvest(model, HOOK, tokens, tmp_path / "acts", progress=False)
    assert store.fingerprint()["weights"].startswith("LanguageModel ")
    other = tiny_model(seed=7)
    with pytest.raises(ValueError, match=r"holds other activations .weights: 'LanguageModel"):
        harvest(other, HOOK, tokens, tmp_path / "acts", progress=False)
    before = json.loads((tmp_path / "acts" / "index.json").read_text())
    assert harvest(model, HOOK, tokens, tmp_path / "acts", progress=False).n_stored == store.n_stored
    assert json.loads((tmp_path / "acts" / "index.json").read_text()) == before
