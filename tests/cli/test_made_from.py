"""Every result says what it was made from, knows its own checksum, and is not lost to one made from something else."""

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
def made(tmp_path_factory):
    """A model, the same with other weights, a text, and dictionaries that know where they belong."""
    folder = tmp_path_factory.mktemp("made")
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


def run(made, verb, *words, text="text.jsonl"):
    return main([verb, *map(str, words), "--text", str(made / text), "--quiet"])


def answers(out):
    key = json.loads((out / "rate.key.json").read_text())
    steps = ("confidence", "high", "logits", "separation", "specificity")
    given = {number: dict.fromkeys(steps, 1) for number in key["items"]}
    path = out / "answers.json"
    path.write_text(json.dumps({"format": 1, "study": key["study"], "annotator": "Ada", "answers": given}))
    return path


FEW = ("--features", 2, "--neurons", 1)
VERBS = {
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


@pytest.mark.parametrize("verb", VERBS)
def test_what_a_result_was_made_from(made, tmp_path, verb, capsys):
    words, name = VERBS[verb]
    words = [made / w if w in ("small", "large") else w for w in words]
    assert run(made, verb.split()[0], *words, "--out", tmp_path) == 0, capsys.readouterr().err
    check(made, tmp_path / name, [w for w in words if w in (made / "small", made / "large")])
    if verb == "rate":
        assert main(["rate", "--score", str(answers(tmp_path))]) == 0
        check(made, tmp_path / "rubric.json", [made / "small"])
    written = {path.name for path in tmp_path.glob("*.json")}
    assert written == {name} | ({"answers.json", "rubric.json"} if verb == "rate" else set())


def check(made, path, folders):
    held = sealed.read(path, "out", "a result")[0]["made_from"]
    said = json.dumps(held)
    assert fingerprint.of_text(made / "text.jsonl")["sha256"] in said or held["text"] == str(made / "text.jsonl")
    for folder in folders:
        assert of_dictionary(ms.load(folder)) in said
    assert HOOK in said and "LanguageModel " in said
    whole = path.read_bytes()
    at = whole.index(b"made_from")
    path.write_bytes(whole[:at] + b"n" + whole[at + 1 :])
    with pytest.raises(ValueError, match=f"{path.name}.* was altered"):
        sealed.read(path, "out", "a result")
    path.write_bytes(whole)


@pytest.mark.parametrize(
    "change",
    [
        lambda made: {"text": "more.jsonl"},
        lambda made: {"words": ("--split", "train")},
        lambda made: {"words": ("--tokens", 300)},
        lambda made: {"folder": "large"},
        lambda made: {"words": ("--model", made / "other")},
    ],
    ids=["text", "split", "fewer tokens", "dictionary", "model"],
)
def test_a_result_of_something_else_is_kept(made, tmp_path, capsys, change):
    assert run(made, "proxies", made / "small", "--out", tmp_path) == 0
    before = (tmp_path / "proxies.json").read_bytes()
    changed = change(made)
    again = (made / changed.get("folder", "small"), "--out", tmp_path, *changed.get("words", ()))
    assert run(made, "proxies", *again, text=changed.get("text", "text.jsonl")) == 0
    assert "it is kept as" in capsys.readouterr().out
    assert (tmp_path / "proxies.1.json").read_bytes() == before != (tmp_path / "proxies.json").read_bytes()


def test_a_result_of_the_same_is_replaced(made, tmp_path, capsys):
    assert run(made, "proxies", made / "small", "--tokens", 300, "--out", tmp_path) == 0
    assert run(made, "proxies", made / "small", "--tokens", 300, "--out", tmp_path) == 0
    assert run(made, "proxies", made / "small", "--out", tmp_path) == 0  # more tokens of the same
    old = json.loads((tmp_path / "proxies.json").read_text())
    del old["made_from"], old["sha256"], old["digests"]  # as an older version wrote it
    (tmp_path / "proxies.json").write_text(json.dumps(old))
    assert run(made, "proxies", made / "small", "--out", tmp_path) == 0
    assert "kept as" not in capsys.readouterr().out and [p.name for p in tmp_path.glob("*.json")] == ["proxies.json"]


def test_a_dictionary_that_was_trained_further_replaces_its_own_result(made, tmp_path, capsys):
    shutil.copytree(made / "small", tmp_path / "run")
    assert run(made, "proxies", tmp_path / "run") == 0
    shutil.rmtree(tmp_path / "kept", ignore_errors=True)
    trained = ms.load(tmp_path / "run")
    trained.b_dec.data += 1
    ms.save(trained, tmp_path / "run", trained.metadata)
    assert run(made, "proxies", tmp_path / "run") == 0
    assert "kept as" not in capsys.readouterr().out and not (tmp_path / "run" / "proxies.1.json").exists()


def test_an_altered_result_is_nothing_to_keep(made, tmp_path):
    assert run(made, "proxies", made / "small", "--out", tmp_path) == 0
    (tmp_path / "proxies.json").write_text('{"proxies": ')
    assert run(made, "proxies", made / "small", "--tokens", 300, "--out", tmp_path) == 0
    assert sealed.read(tmp_path / "proxies.json", "out", "a result")
