"""``monosem lm`` from end to end, as typed."""

import json

import pytest
import stand_in_trackers
from tiny import tiny_documents

from monosem.cli.main import main

SHAPE = [
    "--d-vocab",
    "300",
    "--n-ctx",
    "32",
    "--d-model",
    "16",
    "--n-heads",
    "2",
    "--d-mlp",
    "32",
    "--batch-contexts",
    "2",
    "--quiet",
]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    path.write_text("".join(json.dumps(d.__dict__) + "\n" for d in tiny_documents(20)))
    return str(path)


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("lm") / "model")
    assert main(["lm", "train", "--text", text, "--out", out, *SHAPE]) == 0
    return out


def test_train_prints_the_next_command(text, trained, capsys):
    assert main(["lm", "train", "--text", text, "--out", trained, *SHAPE]) == 0  # finished: nothing to do
    out = capsys.readouterr().out
    assert f"monosem lm evaluate --model {trained} --text {text}" in out


def test_metrics_go_to_a_tracker_too(text, tmp_path, monkeypatch):
    made = stand_in_trackers.install(monkeypatch)
    assert main(["lm", "train", "--text", text, "--out", str(tmp_path / "lm"), *SHAPE, "--log", "wandb"]) == 0
    (run,) = made["wandb"]
    rows = [json.loads(line) for line in (tmp_path / "lm" / "metrics.jsonl").open()]
    assert [{"step": step, **row} for step, row in run.rows] == rows != []
    assert run.options["name"] == "lm" and run.options["config"]["model"]["d_model"] == 16


def test_evaluate(text, trained, tmp_path, capsys):
    target = tmp_path / "figures.json"
    command = ["lm", "evaluate", "--model", trained, "--text", text, "--quiet", "--json", str(target)]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["source", "nats/token", "bits/byte", "tokens", "bytes"]
    assert [line.split()[0] for line in lines[1:]] == ["code", "dna", "en", "he", "all"]
    figures = json.loads(target.read_text())
    assert figures["split"] == "held_out" and figures["sources"]["dna"]["bits_per_byte"] > 0
    assert f"{figures['sources']['all']['nats_per_token']:.3f}" in lines[-1]


def test_generate(trained, capsys):
    command = ["lm", "generate", "--model", trained, "--prompt", "the quick", "--length", "12", "--samples", "2"]
    assert main(command) == 0
    first = capsys.readouterr().out
    assert first.startswith("--- 1\nthe quick") and "--- 2\nthe quick" in first
    assert main(command) == 0
    assert capsys.readouterr().out == first
    assert main([*command, "--seed", "9"]) == 0
    assert capsys.readouterr().out != first


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["generate", "--model", "no-such"], "monosem lm: model: 'no-such' is neither a bundled model nor a folder"),
        (["evaluate", "--model", "MODEL", "--text", "none.jsonl"], "monosem lm: text: no file 'none.jsonl'"),
        (["train", "--text", "none.jsonl", "--out", "OUT"], "monosem lm: text: no file 'none.jsonl'"),
        (["generate", "--model", "MODEL", "--temperature", "-1"], "monosem lm: length, temperature: got 100, -1.0"),
        (["evaluate", "--model", "OUT"], "model.safetensors; wanted a folder written by `monosem lm train`"),
    ],
)
def test_errors_are_one_line(command, message, trained, tmp_path, capsys):
    command = [{"MODEL": trained, "OUT": str(tmp_path)}.get(word, word) for word in command]
    assert main(["lm", *command]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_help(capsys):
    for words in (
        ["lm", "--help"],
        ["lm", "train", "--help"],
        ["lm", "evaluate", "--help"],
        ["lm", "generate", "--help"],
    ):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 0
    assert "the same command resumes" in " ".join(capsys.readouterr().out.split())
