"""From vectors of texts to a browser, on the command line, with the default options."""

import json

import pytest
import torch

import monosem as ms
from monosem.cli.main import main
from monosem.data.vectors import save_vectors

N, D, TOPICS = 200, 8, 4
SAME = "the run itself, as another one"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A dictionary on vectors of four topics, trained by ``monosem train``."""
    folder = tmp_path_factory.mktemp("vectors")
    g = torch.Generator().manual_seed(0)
    topic = torch.arange(N) % TOPICS
    vectors = 4 * torch.nn.functional.one_hot(topic, D) + 0.1 * torch.randn(N, D, generator=g)
    texts = [f"number {i} is about topic{t}, " + "and so on " * 60 for i, t in enumerate(topic.tolist())]
    save_vectors(folder / "vectors", vectors, texts, [f"source{t}" for t in topic.tolist()])
    options = ["--d-sae", "16", "--k", "1", "--batch-size", "64", "--steps", "200", "--lr", "0.01", "--quiet"]
    assert main(["train", "--model", str(folder / "vectors"), *options, "--out", str(folder / "sae")]) == 0
    return folder


def contents(path):
    text = path.read_text(encoding="utf-8")
    return json.loads("[" + text[text.index("(") + 1 : text.rindex(")")] + "]")


def test_train_notes_the_texts(run):
    metadata = ms.load(run / "sae").metadata
    assert metadata["hook_name"] == "vectors" and metadata["text"]["text"].endswith("texts.jsonl")
    assert metadata["text"]["sha256"]


def test_evaluate(run, capsys):
    assert main(["evaluate", str(run / "sae"), "--split", "all", "--quiet"]) == 0
    output = capsys.readouterr().out
    assert "200 scored texts of one vector each" in output and "no next token was predicted" in output
    assert json.loads((run / "sae" / "evaluation.json").read_text(encoding="utf-8"))["explained_variance"] > 0.9


def test_index_and_browser(run, capsys):
    assert main(["index", str(run / "sae"), "--quiet"]) == 0
    assert "200 texts read" in capsys.readouterr().out
    assert main(["features", str(run / "sae"), "--quiet"]) == 0
    site = run / "sae" / "features"
    summary = contents(site / "data" / "summary.js")[0]
    assert summary["vocabulary"] == [] and not {"tokens", "logits", "skew", "focus"} & summary["columns"].keys()
    records = [r for r in contents(site / "data" / "features-0.js")[1] if r["n"] > 20]
    assert len(records) == TOPICS
    for record in records:
        assert record["t"] is None and "p" not in record
        examples = record["ex"]["top"]
        values = [example[1] for example in examples]
        assert values == sorted(values, reverse=True)
        topics = set()
        for _, _, _, focus, pieces in examples:
            ((text, value),) = pieces  # one text, none of its neighbours
            assert focus == 0 and value > 0 and len(text) <= 320 and text.endswith("…")
            topics.add(text.split("about ")[1].split(",")[0])
        assert len(topics) == 1
        assert summary["titles"][record["f"]].startswith("number ") and len(summary["titles"][record["f"]]) <= 60


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["evaluate", "--report"], "--report: got it for a dictionary of"),
        (["features", "--export", "neuronpedia"], "--export: got 'neuronpedia', whose files hold logit weights"),
        (["features", "--prompt", "words"], "it makes no vector of another text"),
        (["evaluate", "--text", "sample"], "--text: got 'sample'; it has no effect beside"),
        (["index", "--context", "64"], "--context: got 64; it has no effect beside"),
        (["steer", "--add", "1=1x"], "is a folder of vectors that were computed elsewhere"),
        (["proxies"], "proxies: they are scored token by token; "),
        (["automata"], "automata: they are links through the next token; "),
        (["explain"], "RUN: its features would be shown by tokens and logit weights; "),
        (["rate"], "RUN: its features would be shown by tokens and logit weights; "),
        (["compare", SAME], "compare: pairs of features are compared by logit weights too; "),
        (["split", SAME], "split: features are shown with logit weights; "),
        (["probe"], "it makes no vector of another text"),
    ],
)
def test_what_needs_a_language_model_is_refused(run, capsys, command, message):
    command = [str(run / "sae") if word is SAME else word for word in command]
    assert main([command[0], str(run / "sae"), *command[1:], "--quiet"]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("command", [["neurons", "sae"], ["widths", "sae", "other"]])
def test_claims_that_need_no_token(run, command):
    ms.save(ms.TopKSAE(D, 4, k=1, seed=1), run / "other", {"model": str(run / "vectors"), "hook_name": "vectors"})
    out = ["--out", str(run / command[0]), "--quiet"]
    assert main([command[0], *(str(run / name) for name in command[1:]), *out]) == 0


def test_vectors_are_harvested_and_trained_on_from_disk(run, tmp_path, capsys):
    vectors, activations = str(run / "vectors"), str(tmp_path / "activations")
    harvest = ["harvest", "--model", vectors, "--out", activations, "--dtype", "fp32", "--quiet"]
    assert main([*harvest, "--text", "sample"]) == 2
    assert "--text: got 'sample'; it has no effect beside" in capsys.readouterr().err
    assert main(harvest) == 0
    assert "196 contexts of 2 tokens, width 8, fp32" in capsys.readouterr().out  # four of them are held out
    found = ms.ActivationStore(activations)
    model = ms.load_model(vectors)
    texts = model.rows("train").tokens
    assert torch.equal(found.read(torch.arange(196))[0], model.activations(texts, "vectors")[:, 1])
    train = ["train", "--activations", activations, "--d-sae", "16", "--k", "1", "--batch-size", "64", "--quiet"]
    assert main([*train, "--steps", "20", "--out", str(tmp_path / "sae")]) == 0
    assert ms.load(tmp_path / "sae").metadata["model"] == vectors
    assert main(["evaluate", str(tmp_path / "sae"), "--split", "all", "--quiet"]) == 0


@pytest.mark.parametrize("form", ["sae_lens", "sparsify", "dictionary_learning"])
def test_a_dictionary_of_vectors_is_exported_and_read_again(run, tmp_path, capsys, form):
    assert main(["export", str(run / "sae"), "--format", form, "--out", str(tmp_path / "out")]) == 0
    sae, again = ms.load(run / "sae"), ms.load(tmp_path / "out")
    x = ms.load_model(run / "vectors").activations(torch.tensor([[N, 0], [N, 7]]), "vectors")[:, 1]
    torch.testing.assert_close(again(x), sae(x))
    where = ["--model", str(run / "vectors"), "--hook", "vectors"]
    assert main(["evaluate", str(tmp_path / "out"), *where, "--split", "all", "--quiet"]) == 0
    assert "200 scored texts of one vector each" in capsys.readouterr().out


def test_text_beside_vectors_is_refused(run, capsys):
    for option, value in (("--text", "sample"), ("--context", "8"), ("--skip-positions", "0")):
        options = ["--model", str(run / "vectors"), option, value, "--out", str(run / "other")]
        assert main(["train", *options]) == 2
        assert f"{option}: got" in capsys.readouterr().err
