"""A folder of another kind: the message names its kind and the command that reads it."""

import pytest
import torch

import monosem as ms
from monosem.analysis.index import build_index, open_index
from monosem.analysis.inputs import Subject
from monosem.data import native
from monosem.data.language_model import LMConfig, Transformer
from monosem.data.text import Document


@pytest.fixture
def folders(tmp_path):
    ms.save(ms.TopKSAE(d_in=8, d_sae=16, k=2), tmp_path / "sae")
    shape = dict(n_layers=1, d_model=8, d_mlp=16, n_heads=2, n_ctx=8, d_vocab=32)
    native.save_folder(tmp_path / "lm", Transformer(LMConfig(**shape)))
    model = ms.load_model("A")
    ms.harvest(model, "blocks.0.mlp.hook_post", torch.full((2, 8), 300), tmp_path / "acts")
    rows, sae = ms.pack_rows([Document("en", "a b c d" * 200)], model), ms.TopKSAE(512, 16, k=2)
    build_index(Subject(sae, model, "blocks.0.mlp.hook_post"), rows, tmp_path / "index", progress=False)
    return tmp_path


READERS = {"sae": ms.load, "lm": ms.load_model, "acts": lambda f: ms.ActivationStore(f, 4), "index": open_index}
SAYS = {
    "sae": "holds a dictionary; it is read by `monosem evaluate",
    "lm": "holds a language model; it is read by `--model FOLDER`",
    "index": "holds an index of a dictionary; it is read by `monosem features",
    "acts": "holds activations; it is read by `monosem train --activations",
}


@pytest.mark.parametrize("kind", SAYS)
@pytest.mark.parametrize("reader", READERS)
def test_describe_names_the_kind_of_folder(folders, kind, reader):
    if kind == reader:
        return
    with pytest.raises((FileNotFoundError, ValueError)) as caught:
        READERS[reader](folders / kind)
    assert SAYS[kind] in str(caught.value)
