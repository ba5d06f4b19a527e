"""A run stores its inputs for later commands; options that would be ignored, and losses of results, are refused."""

import json
import shutil

import pytest
from tiny import HOOK, tiny_documents, tiny_model

import monosem as ms
from monosem.analysis.inputs import load_subject
from monosem.cli.main import main
from monosem.data import fingerprint
from monosem.data.native import save_folder


def write_text(path, count, start=0):
    documents = tiny_documents(count + start)[start:]
    path.write_text("".join(json.dumps({"source": d.source, "text": d.text}) + "\n" for d in documents))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model, a text, its activations, and a dictionary trained from the text."""
    folder, model = tmp_path_factory.mktemp("run_inputs"), tiny_model()
    save_folder(folder / "model", model.module, model.tokenizer)
    write_text(folder / "text.jsonl", 30)
    assert train(folder, "run", "--text", folder / "text.jsonl", "--split", "all") == 0
    harvest = ["harvest", "--model", folder / "model", "--hook", HOOK, "--text", folder / "text.jsonl", "--quiet"]
    assert main([str(w) for w in (*harvest, "--split", "all", "--out", folder / "acts")]) == 0
    return folder


@pytest.fixture
def workspace(trained, tmp_path):
    """A copy of ``trained`` that a test may change; its dictionary still names the first one's model and text."""
    shutil.copytree(trained / "run", tmp_path / "run")
    return tmp_path


def train(folder, out, *more):
    words = ["train", "--model", folder / "model", "--hook", HOOK] if "--activations" not in more else ["train"]
    words += ["--d-sae", 64, "--k", 4, "--batch-size", 128, "--steps", 6, "--out", folder / out, "--quiet", *more]
    return main([str(w) for w in words])


def run(command, folder, *more):
    return main([command, str(folder), "--quiet", *map(str, more)])


def test_later_commands_read_the_text_of_the_run_and_print_it(trained, workspace, capsys):
    text = str((trained / "text.jsonl").resolve())
    assert ms.load(workspace / "run").metadata["text"]["text"] == text
    for command, more in (("evaluate", ()), ("proxies", ()), ("index", ("--split", "all"))):
        assert run(command, workspace / "run", *more) == 0
        assert f"text: {text}, as trained" in capsys.readouterr().out
    evidence = json.loads((workspace / "run" / "proxies.json").read_text())
    assert "weights" in str(evidence) and ms.load(workspace / "run").metadata["text"]["sha256"] in str(evidence)
    got = json.loads((workspace / "run" / "evaluation.json").read_text())
    assert got["made_from"]["text"] == text and got["made_from"]["weights"].startswith("LanguageModel ")
    assert run("evaluate", workspace / "run", "--out", workspace / "other") == 0
    assert "trained on all of it, the held-out part too" in capsys.readouterr().out
    assert run("evaluate", workspace / "run", "--text", trained / "text.jsonl", "--out", workspace / "other") == 0
    assert "as trained" not in capsys.readouterr().out


def test_activations_pass_their_text_on_to_the_run(trained, capsys):
    assert train(trained, "from-disk", "--activations", trained / "acts") == 0
    assert ms.load(trained / "from-disk").metadata["text"] == ms.load(trained / "run").metadata["text"]


def test_a_changed_or_missing_text_is_reported(tmp_path, trained, capsys):
    shutil.copytree(trained / "model", tmp_path / "model")
    write_text(tmp_path / "text.jsonl", 30)
    assert train(tmp_path, "run", "--text", tmp_path / "text.jsonl") == 0
    write_text(tmp_path / "text.jsonl", 25, start=3)
    assert run("evaluate", tmp_path / "run") == 0
    assert "as trained; its content has changed since" in capsys.readouterr().out
    # The same command on the changed text resumes nothing.
    assert train(tmp_path, "run", "--text", tmp_path / "text.jsonl") == 2
    assert "was trained on other data (" in capsys.readouterr().err
    (tmp_path / "text.jsonl").unlink()
    assert run("evaluate", tmp_path / "run") == 2
    assert "no longer exists; put it back, or name another with --text" in capsys.readouterr().err


def test_a_retrained_model_is_refused_unless_named(tmp_path, trained, capsys):
    shutil.copytree(trained / "model", tmp_path / "model")
    assert train(tmp_path, "run", "--text", trained / "text.jsonl") == 0
    other = tiny_model(seed=3)
    save_folder(tmp_path / "model", other.module, other.tokenizer)
    assert run("evaluate", tmp_path / "run") == 2
    assert "wanted the same model. Put it back, or ask for this one" in capsys.readouterr().err
    assert train(tmp_path, "run", "--text", trained / "text.jsonl") == 2
    assert "was trained on other data (weights: " in capsys.readouterr().err
    assert run("evaluate", tmp_path / "run", "--model", tmp_path / "model") == 0


def test_a_dictionary_of_a_model_that_ships_under_another_name_is_told_it(tmp_path):
    """Of the first model A, in the days when it was called A."""
    sae = ms.TopKSAE(512, 8, k=2)
    weights = fingerprint.of_model(ms.load_model("first/A"))
    ms.save(sae, tmp_path, {"model": "A", "hook_name": "blocks.0.mlp.hook_post", "data": {"weights": weights}})
    with pytest.raises(ValueError, match=r"It ships under another name: --model first/A, or ask"):
        load_subject(tmp_path)
    assert load_subject(tmp_path, "first/A").model.name == "first/A"


def test_an_evaluation_of_more_or_other_text_is_replaced_only_on_request(trained, workspace, capsys):
    assert run("evaluate", workspace / "run", "--split", "all") == 0
    path = workspace / "run" / "evaluation.json"
    whole = path.read_bytes()
    changed = tiny_model(seed=4)
    save_folder(workspace / "model", changed.module, changed.tokenizer)
    for more, message in (
        (("--tokens", 64), "contexts there, 2 here"),
        (("--split", "train"), "rows: "),
        (("--model", workspace / "model"), "weights: "),
        (("--skip-positions", 2), "skip_positions: 1 there, 2 here"),
    ):
        more = more if "--split" in more else ("--split", "all", *more)
        assert run("evaluate", workspace / "run", *more) == 2
        error = capsys.readouterr().err
        assert "holds another evaluation" in error and message in error and "--replace" in error
        assert path.read_bytes() == whole
    assert run("evaluate", workspace / "run", "--split", "all", "--tokens", 64, "--out", workspace / "elsewhere") == 0
    assert run("evaluate", workspace / "elsewhere-none", "--split", "all") == 2
    assert run("evaluate", workspace / "run", "--split", "all") == 0  # the same again
    old = json.loads(whole)
    del old["made_from"]  # what an older version wrote
    path.write_text(json.dumps(old))
    assert run("evaluate", workspace / "run", "--split", "all", "--tokens", 64) == 2
    assert run("evaluate", workspace / "run", "--split", "all", "--tokens", 64, "--replace") == 0
    assert json.loads(path.read_text())["contexts"] == 2


@pytest.mark.parametrize(
    "more", [("--model", "B"), ("--hook", HOOK), ("--text", "sample"), ("--split", "all"), ("--contexts", 3)]
)
def test_options_that_activations_fix_are_refused(trained, capsys, more):
    assert train(trained, "nothing", "--activations", trained / "acts", *more) == 2
    assert f"{more[0]}: got" in capsys.readouterr().err and not (trained / "nothing").exists()


@pytest.mark.parametrize(
    "more, message",
    [
        (("--l1", 0.1), "--l1: got [0.1]; it has no effect on --kind topk"),
        (("--kind", "relu"), "--k: got [4]; it has no effect on --kind relu"),
        (("--epochs", 2), "--epochs: got 2.0; it has no effect beside --steps"),
        (("--moments",), "--moments: got True; it has no effect without --from"),
    ],
)
def test_options_without_effect_on_training_are_refused(trained, capsys, more, message):
    assert train(trained, "nothing", *more) == 2
    assert message in capsys.readouterr().err


def test_options_that_an_index_fixes_are_refused(trained, workspace, capsys):
    assert run("index", workspace / "run", "--tokens", 640) == 0
    write_text(workspace / "other.jsonl", 20)
    for more, message in (
        (("--text", workspace / "other.jsonl"), "text: got"),
        (("--split", "train"), "split: got 'train'; the index in"),
        (("--tokens", 64), "tokens: got 64; the index in"),
        (("--export", "saedashboard", "--title", "x"), "--title: got 'x'; it has no effect beside --export"),
    ):
        assert run("features", workspace / "run", *more) == 2
        assert message in capsys.readouterr().err
    assert run("explain", workspace / "run", "--text", workspace / "other.jsonl", "--features", 2) == 2
    assert "text: got" in capsys.readouterr().err
    same = ("--text", trained / "text.jsonl", "--split", "all", "--tokens", 640)
    assert run("features", workspace / "run", *same, "--no-proxies") == 0


def test_a_run_is_extended_and_a_new_run_starts_from_it(trained, workspace, capsys):
    text = ("--text", trained / "text.jsonl", "--split", "all")
    assert train(trained, "run", *text, "--steps", 9) == 0
    assert "steps: 6 were planned and 6 are done, now 9" in capsys.readouterr().err
    assert train(trained, "new", *text, "--from", trained / "run", "--moments") == 0
    assert ms.load(trained / "new").metadata["started"] == {
        "folder": str(trained / "run"),
        "steps": 9,
        "moments": True,
    }


def test_every_command_uses_the_context_of_the_run(trained, tmp_path, capsys):
    assert train(tmp_path, "run", "--model", trained / "model", "--text", trained / "text.jsonl", "--context", 16) == 0
    few = ("--features", 2, "--neurons", 0)
    commands = {
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
    for command, (name, more) in commands.items():
        capsys.readouterr()
        assert run(command, tmp_path / "run", *more, "--out", tmp_path / command) == 0, command
        assert "--context 16, as trained" in capsys.readouterr().out, command
        held = json.loads((tmp_path / command / name).read_text())
        assert (held["n_ctx"] if command == "index" else held["made_from"].get("context", 16)) == 16, command
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


def test_a_context_other_than_the_index_has_is_refused(workspace, capsys):
    assert run("index", workspace / "run") == 0
    capsys.readouterr()
    assert run("features", workspace / "run", "--context", 16) == 2
    assert "context: got 16; the index in" in capsys.readouterr().err
    assert run("features", workspace / "run", "--context", 32) == 0
