"""Every result records its inputs and a checksum, and is not replaced by a result of other inputs."""

import json
import shutil

import pytest
from tiny import HOOK, tiny_documents, tiny_model

import monosem as ms
from monosem.analysis.index.fingerprint import of_dictionary
from monosem.cli.main import main
from monosem.data import fingerprint, sealed
from monosem.data.native import save_folder


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A model, the same with other weights, a text, and dictionaries with their model and hook in the metadata."""
    folder = tmp_path_factory.mktemp("workspace")
    for name, seed in (("model", 0), ("other", 5)):
        model = tiny_model(seed=seed)
        save_folder(folder / name, model.module, model.tokenizer)
    documents = [{"source": d.source, "text": d.text} for d in tiny_documents(30)]
    (folder / "text.jsonl").write_text("\n".join(map(json.dumps, documents)))
    (folder / "more.jsonl").write_text("\n".join(map(json.dumps, [*documents, documents[3]])))
    for name, width in (("small", 40), ("large", 90)):
        known = {"model": str(folder / "model"), "hook_name": HOOK}
        ms.save(ms.TopKSAE(32, width, k=4, seed=width), folder / name, known)
    return folder


def run(workspace, command, *words, text="text.jsonl"):
    return main([command, *map(str, words), "--text", str(workspace / text), "--quiet"])


def answers(out):
    key = json.loads((out / "rate.key.json").read_text())
    steps = ("confidence", "high", "logits", "separation", "specificity")
    given = {number: dict.fromkeys(steps, 1) for number in key["items"]}
    path = out / "answers.json"
    path.write_text(json.dumps({"format": 1, "study": key["study"], "annotator": "Ada", "answers": given}))
    return path


FEW = ("--features", 2, "--neurons", 1)
COMMANDS = {
    "evaluate": (("small",), "evaluation.json"),
    "proxies": (("small",), "proxies.json"),
    "neurons": (("small",), "neurons.json"),
    "automata": (("small", "--support", 2), "automata.json"),
    "widths": (("small", "large", "--tokens", 400, "--density-tokens", 900), "widths.json"),
    "compare": (("small", "large", "--no-baseline"), "universality.json"),
    "split": (("small", "large", "--no-map"), "splitting.json"),
    "explain": (("small", *FEW), "explain.json"),
    "rate": (("small", *FEW), "rate.key.json"),
    "steer": (("small", "--labels", "he", "--samples", 2, "--length", 3, "--trials", 1), "steering.json"),
    "steer --pin": (("small", "--pin", "3=1.5", "--samples", 1, "--length", 2), "steered.json"),
    "steer --read": (("small", "--pin", "3=1.5", "--read", "--tokens", 300), "steered_reading.json"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_result_records_its_text_and_dictionaries(workspace, tmp_path, command, capsys):
    words, name = COMMANDS[command]
    words = [workspace / w if w in ("small", "large") else w for w in words]
    assert run(workspace, command.split()[0], *words, "--out", tmp_path) == 0, capsys.readouterr().err
    check(workspace, tmp_path / name, [w for w in words if w in (workspace / "small", workspace / "large")])
    if command == "rate":
        assert main(["rate", "--score", str(answers(tmp_path))]) == 0
        check(workspace, tmp_path / "rubric.json", [workspace / "small"])
    written = {path.name for path in tmp_path.glob("*.json")}
    assert written == {name} | ({"answers.json", "rubric.json"} if command == "rate" else set())


def check(workspace, path, folders):
    held = sealed.read(path, "out", "a result")[0]["made_from"]
    text = json.dumps(held)
    assert fingerprint.of_text(workspace / "text.jsonl")["sha256"] in text or held["text"] == str(
        workspace / "text.jsonl"
    )
    for folder in folders:
        assert of_dictionary(ms.load(folder)) in text
    assert HOOK in text and "LanguageModel " in text
    whole = path.read_bytes()
    at = whole.index(b"made_from")
    path.write_bytes(whole[:at] + b"n" + whole[at + 1 :])
    with pytest.raises(ValueError, match=f"{path.name}.* was altered"):
        sealed.read(path, "out", "a result")
    path.write_bytes(whole)


@pytest.mark.parametrize(
    "change",
    [
        lambda workspace: {"text": "more.jsonl"},
        lambda workspace: {"words": ("--split", "train")},
        lambda workspace: {"words": ("--tokens", 300)},
        lambda workspace: {"folder": "large"},
        lambda workspace: {"words": ("--model", workspace / "other")},
    ],
    ids=["text", "split", "fewer tokens", "dictionary", "model"],
)
def test_a_result_of_other_inputs_is_set_aside(workspace, tmp_path, capsys, change):
    assert run(workspace, "proxies", workspace / "small", "--out", tmp_path) == 0
    before = (tmp_path / "proxies.json").read_bytes()
    changed = change(workspace)
    again = (workspace / changed.get("folder", "small"), "--out", tmp_path, *changed.get("words", ()))
    assert run(workspace, "proxies", *again, text=changed.get("text", "text.jsonl")) == 0
    assert "it is kept as" in capsys.readouterr().out
    assert (tmp_path / "proxies.1.json").read_bytes() == before != (tmp_path / "proxies.json").read_bytes()


def test_a_result_of_the_same_inputs_is_replaced(workspace, tmp_path, capsys):
    assert run(workspace, "proxies", workspace / "small", "--tokens", 300, "--out", tmp_path) == 0
    assert run(workspace, "proxies", workspace / "small", "--tokens", 300, "--out", tmp_path) == 0
    assert run(workspace, "proxies", workspace / "small", "--out", tmp_path) == 0  # more tokens of the same
    old = json.loads((tmp_path / "proxies.json").read_text())
    del old["made_from"], old["sha256"], old["digests"]  # as an older version wrote it
    (tmp_path / "proxies.json").write_text(json.dumps(old))
    assert run(workspace, "proxies", workspace / "small", "--out", tmp_path) == 0
    assert "kept as" not in capsys.readouterr().out and [p.name for p in tmp_path.glob("*.json")] == ["proxies.json"]


def test_a_longer_trained_dictionary_replaces_its_own_result(workspace, tmp_path, capsys):
    shutil.copytree(workspace / "small", tmp_path / "run")
    assert run(workspace, "proxies", tmp_path / "run") == 0
    shutil.rmtree(tmp_path / "kept", ignore_errors=True)
    trained = ms.load(tmp_path / "run")
    trained.b_dec.data += 1
    ms.save(trained, tmp_path / "run", trained.metadata)
    assert run(workspace, "proxies", tmp_path / "run") == 0
    assert "kept as" not in capsys.readouterr().out and not (tmp_path / "run" / "proxies.1.json").exists()


def test_an_altered_result_is_not_set_aside(workspace, tmp_path):
    assert run(workspace, "proxies", workspace / "small", "--out", tmp_path) == 0
    (tmp_path / "proxies.json").write_text('{"proxies": ')
    assert run(workspace, "proxies", workspace / "small", "--tokens", 300, "--out", tmp_path) == 0
    assert sealed.read(tmp_path / "proxies.json", "out", "a result")
