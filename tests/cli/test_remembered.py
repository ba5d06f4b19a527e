"""A run remembers what it was made from; what would be ignored, or lost, is refused."""

import json
import shutil

import pytest
from tiny import HOOK, tiny_documents, tiny_model

import monosem as ms
from monosem.cli.main import main
from monosem.data.native import save_folder


def write_text(path, count, start=0):
    documents = tiny_documents(count + start)[start:]
    path.write_text("".join(json.dumps({"source": d.source, "text": d.text}) + "\n" for d in documents))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model, a text, its activations, and a dictionary trained from the text."""
    folder, model = tmp_path_factory.mktemp("remembered"), tiny_model()
    save_folder(folder / "model", model.module, model.tokenizer)
    write_text(folder / "text.jsonl", 30)
    assert train(folder, "run", "--text", folder / "text.jsonl", "--split", "all") == 0
    harvest = ["harvest", "--model", folder / "model", "--hook", HOOK, "--text", folder / "text.jsonl", "--quiet"]
    assert main([str(w) for w in (*harvest, "--split", "all", "--out", folder / "acts")]) == 0
    return folder


@pytest.fixture
def made(trained, tmp_path):
    """A copy of ``trained`` that a test may change; its dictionary still names the first one's model and text."""
    shutil.copytree(trained / "run", tmp_path / "run")
    return tmp_path


def train(folder, out, *more):
    words = ["train", "--model", folder / "model", "--hook", HOOK] if "--activations" not in more else ["train"]
    words += ["--d-sae", 64, "--k", 4, "--batch-size", 128, "--steps", 6, "--out", folder / out, "--quiet", *more]
    return main([str(w) for w in words])


def run(verb, folder, *more):
    return main([verb, str(folder), "--quiet", *map(str, more)])


def test_later_verbs_read_the_runs_text_and_say_so(trained, made, capsys):
    text = str((trained / "text.jsonl").resolve())
    assert ms.load(made / "run").metadata["text"]["text"] == text
    for verb, more in (("evaluate", ()), ("proxies", ()), ("index", ("--split", "all"))):
        assert run(verb, made / "run", *more) == 0
        assert f"text: {text}, as trained" in capsys.readouterr().out
    evidence = json.loads((made / "run" / "proxies.json").read_text())
    assert "weights" in str(evidence) and ms.load(made / "run").metadata["text"]["sha256"] in str(evidence)
    got = json.loads((made / "run" / "evaluation.json").read_text())
    assert got["made_from"]["text"] == text and got["made_from"]["weights"].startswith("LanguageModel ")
    assert run("evaluate", made / "run", "--out", made / "other") == 0
    assert "trained on all of it, the held-out part too" in capsys.readouterr().out
    assert run("evaluate", made / "run", "--text", trained / "text.jsonl", "--out", made / "other") == 0
    assert "as trained" not in capsys.readouterr().out


def test_activations_remember_it_for_the_run(trained, capsys):
    assert train(trained, "from-disk", "--activations", trained / "acts") == 0
    assert ms.load(trained / "from-disk").metadata["text"] == ms.load(trained / "run").metadata["text"]


def test_a_text_that_changed_or_went_is_said(tmp_path, trained, capsys):
    shutil.copytree(trained / "model", tmp_path / "model")
    write_text(tmp_path / "text.jsonl", 30)
    assert train(tmp_path, "run", "--text", tmp_path / "text.jsonl") == 0
    write_text(tmp_path / "text.jsonl", 25, start=3)
    assert run("evaluate", tmp_path / "run") == 0
    assert "as trained; its content has changed since" in capsys.readouterr().out
    # The same command on the changed text goes on with nothing.
    assert train(tmp_path, "run", "--text", tmp_path / "text.jsonl") == 2
    assert "was trained on other data (" in capsys.readouterr().err
    (tmp_path / "text.jsonl").unlink()
    assert run("evaluate", tmp_path / "run") == 2
    assert "is not there any more; put it back, or name another with --text" in capsys.readouterr().err


def test_a_model_trained_anew_in_its_folder_is_refused_unless_named(tmp_path, trained, capsys):
    shutil.copytree(trained / "model", tmp_path / "model")
    assert train(tmp_path, "run", "--text", trained / "text.jsonl") == 0
    other = tiny_model(seed=3)
    save_folder(tmp_path / "model", other.module, other.tokenizer)
    assert run("evaluate", tmp_path / "run") == 2
    assert "has other weights" in capsys.readouterr().err
    assert train(tmp_path, "run", "--text", trained / "text.jsonl") == 2
    assert "was trained on other data (weights: " in capsys.readouterr().err
    assert run("evaluate", tmp_path / "run", "--model", tmp_path / "model") == 0


def test_a_fuller_or_other_evaluation_is_not_replaced_without_a_word(trained, made, capsys):
    assert run("evaluate", made / "run", "--split", "all") == 0
    path = made / "run" / "evaluation.json"
    whole = path.read_bytes()
    changed = tiny_model(seed=4)
    save_folder(made / "model", changed.module, changed.tokenizer)
    for more, said in (
        (("--tokens", 64), "contexts there, 2 here"),
        (("--split", "train"), "rows: "),
        (("--model", made / "model"), "weights: "),
        (("--skip-positions", 2), "skip_positions: 1 there, 2 here"),
    ):
        more = more if "--split" in more else ("--split", "all", *more)
        assert run("evaluate", made / "run", *more) == 2
        error = capsys.readouterr().err
        assert "holds another evaluation" in error and said in error and "--replace" in error
        assert path.read_bytes() == whole
    assert run("evaluate", made / "run", "--split", "all", "--tokens", 64, "--out", made / "elsewhere") == 0
    assert run("evaluate", made / "elsewhere-none", "--split", "all") == 2
    assert run("evaluate", made / "run", "--split", "all") == 0  # the same again
    old = json.loads(whole)
    del old["made_from"]  # what an older version wrote
    path.write_text(json.dumps(old))
    assert run("evaluate", made / "run", "--split", "all", "--tokens", 64) == 2
    assert run("evaluate", made / "run", "--split", "all", "--tokens", 64, "--replace") == 0
    assert json.loads(path.read_text())["contexts"] == 2


@pytest.mark.parametrize(
    "more", [("--model", "B"), ("--hook", HOOK), ("--text", "sample"), ("--split", "all"), ("--contexts", 3)]
)
def test_what_activations_have_settled_is_refused(trained, capsys, more):
    assert train(trained, "nothing", "--activations", trained / "acts", *more) == 2
    assert f"{more[0]}: got" in capsys.readouterr().err and not (trained / "nothing").exists()


@pytest.mark.parametrize(
    "more, said",
    [
        (("--l1", 0.1), "--l1: got [0.1]; it has no effect on --kind topk"),
        (("--kind", "relu"), "--k: got [4]; it has no effect on --kind relu"),
        (("--epochs", 2), "--epochs: got 2.0; it has no effect beside --steps"),
        (("--moments",), "--moments: got True; it has no effect without --from"),
    ],
)
def test_what_has_no_effect_in_training_is_refused(trained, capsys, more, said):
    assert train(trained, "nothing", *more) == 2
    assert said in capsys.readouterr().err


def test_what_an_index_has_settled_is_refused(trained, made, capsys):
    assert run("index", made / "run", "--tokens", 640) == 0
    write_text(made / "other.jsonl", 20)
    for more, said in (
        (("--text", made / "other.jsonl"), "text: got"),
        (("--split", "train"), "split: got 'train'; the index in"),
        (("--tokens", 64), "tokens: got 64; the index in"),
        (("--export", "saedashboard", "--title", "x"), "--title: got 'x'; it has no effect beside --export"),
    ):
        assert run("features", made / "run", *more) == 2
        assert said in capsys.readouterr().err
    assert run("explain", made / "run", "--text", made / "other.jsonl", "--features", 2) == 2
    assert "text: got" in capsys.readouterr().err
    same = ("--text", trained / "text.jsonl", "--split", "all", "--tokens", 640)
    assert run("features", made / "run", *same, "--no-proxies") == 0


def test_longer_and_from_a_run(trained, made, capsys):
    text = ("--text", trained / "text.jsonl", "--split", "all")
    assert train(trained, "run", *text, "--steps", 9) == 0
    assert "steps: 6 were planned and 6 are done, now 9" in capsys.readouterr().err
    assert train(trained, "new", *text, "--from", trained / "run", "--moments") == 0
    assert ms.load(trained / "new").metadata["started"] == {
        "folder": str(trained / "run"),
        "steps": 9,
        "moments": True,
    }


def test_every_verb_cuts_text_as_the_run_did(trained, tmp_path, capsys):
    assert train(tmp_path, "run", "--model", trained / "model", "--text", trained / "text.jsonl", "--context", 16) == 0
    few = ("--features", 2, "--neurons", 0)
    verbs = {
        "evaluate": ("evaluation.json", ("--split", "all")),
        "proxies": ("proxies.json", ()),
        "neurons": ("neurons.json", ()),
        "automata": ("automata.json", ("--support", 2)),
        "widths": ("widths.json", ("--density-tokens", 400)),
        "explain": ("explain.json", few),
        "rate": ("rate.key.json", few),
        "steer": ("steered_reading.json", ("--pin", "1=2.0", "--read")),
        "index": ("index.json", ()),
    }
    for verb, (name, more) in verbs.items():
        capsys.readouterr()
        assert run(verb, tmp_path / "run", *more, "--out", tmp_path / verb) == 0, verb
        assert "--context 16, as trained" in capsys.readouterr().out, verb
        held = json.loads((tmp_path / verb / name).read_text())
        assert (held["n_ctx"] if verb == "index" else held["made_from"].get("context", 16)) == 16, verb
    read = json.loads((tmp_path / "evaluate" / "evaluation.json").read_text())
    assert read["tokens"] < 16 * read["contexts"]  # BOS does not count; rows are of 16
    assert run("evaluate", tmp_path / "run", "--split", "all", "--context", 32, "--out", tmp_path / "other") == 0
    other = json.loads((tmp_path / "other" / "evaluation.json").read_text())
    assert other["contexts"] < read["contexts"]


def test_skipped_tokens_are_those_of_the_run(trained, tmp_path, capsys):
    words = ("--model", trained / "model", "--text", trained / "text.jsonl", "--skip-tokens", "bos", 7)
    assert train(tmp_path, "run", *words, "--skip-positions", 2) == 0
    capsys.readouterr()
    assert run("evaluate", tmp_path / "run", "--split", "all") == 0
    assert "--skip-positions 2, --skip-tokens bos 7, as trained" in capsys.readouterr().out
    held = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert held["skip_tokens"] == [0, 7] and held["skip_positions"] == 2
    assert run("index", tmp_path / "run") == 0
    assert json.loads((tmp_path / "run" / "index" / "index.json").read_text())["settings"]["skip_tokens"] == [0, 7]


def test_a_context_that_an_index_has_settled_is_refused(made, capsys):
    assert run("index", made / "run") == 0
    capsys.readouterr()
    assert run("features", made / "run", "--context", 16) == 2
    assert "context: got 16; the index in" in capsys.readouterr().err
    assert run("features", made / "run", "--context", 32) == 0
