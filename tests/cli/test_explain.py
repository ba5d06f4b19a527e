"""``monosem explain`` and ``monosem rate`` from the command line, on a tiny real model."""

import json

import pytest
from endpoint import Endpoint
from tiny import HOOK, tiny_documents, tiny_model

import monosem as ms
from monosem.cli.main import main
from monosem.data.native import save_folder


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A model, a text, a dictionary, and one on the model with shuffled weights."""
    folder, model = tmp_path_factory.mktemp("explain"), tiny_model()
    save_folder(folder / "model", model.module, model.tokenizer)
    lines = [json.dumps({"source": d.source, "text": d.text}) for d in tiny_documents(40)]
    (folder / "text.jsonl").write_text("\n".join(lines))
    sae = ms.TopKSAE(32, 40, k=4, seed=0)
    ms.save(sae, folder / "sae", {"model": str(folder / "model"), "hook_name": HOOK})
    ms.save(sae, folder / "control", {"model": f"{folder / 'model'}~shuffled", "hook_name": HOOK})
    return folder


def run(verb, workspace, out, *options):
    shared = ["--text", workspace / "text.jsonl", "--out", out, "--quiet"]
    return main([verb, str(workspace / "sae"), *map(str, [*shared, *options])])


def test_explain_locally(workspace, tmp_path, capsys):
    assert (
        run("explain", workspace, tmp_path, "--features", 3, "--neurons", 2, "--shuffled", workspace / "control") == 0
    )
    output = capsys.readouterr().out
    got = json.loads((tmp_path / "explain.json").read_text())
    assert {k: s["n"] for k, s in got["kinds"].items()} == {"features": 3, "neurons": 2, "shuffled": 3}
    assert got["interpreter"] == "local" and got["subjects"]["shuffled"]["model"].endswith("~shuffled")
    assert got["subjects"]["neurons"]["kind"] == "neurons"
    assert "simulation" in output and "open file://" in output
    page = (tmp_path / "explain.html").read_text()
    assert "logit weights" in page and page.count('class="told"') == 8
    first = (tmp_path / "explain.json").read_bytes()
    assert (
        run("explain", workspace, tmp_path, "--features", 3, "--neurons", 2, "--shuffled", workspace / "control") == 0
    )
    assert (tmp_path / "explain.json").read_bytes() == first


def test_an_index_beside_the_dictionary_is_used(workspace, tmp_path, capsys):
    assert (
        main(["index", str(workspace / "sae"), "--text", str(workspace / "text.jsonl"), "--tokens", "1000", "--quiet"])
        == 0
    )
    assert run("explain", workspace, tmp_path, "--features", 2, "--neurons", 1) == 0
    subjects = json.loads((tmp_path / "explain.json").read_text())["subjects"]
    assert subjects["features"]["tokens"] < 1100 < subjects["neurons"]["tokens"]


def test_explain_with_a_model(workspace, tmp_path, capsys):
    pytest.importorskip("httpx")
    options = ["--features", 1, "--neurons", 0, "--client-model", "m", "--retries", 0, "--price", 3, 15]
    with Endpoint(lambda body: "DESCRIPTION: []") as server:
        assert run("explain", workspace, tmp_path, *options, "--client", server.url) == 2
        assert "--yes" in capsys.readouterr().err and not server.bodies
        assert run("explain", workspace, tmp_path, *options, "--client", server.url, "--yes") == 0
        output = capsys.readouterr().out
        assert "requests (0 more" in output and "per million tokens" in output
        count = len(server.bodies)
        got = json.loads((tmp_path / "explain.json").read_text())
        assert got["requests"]["requests"] == count and got["items"][0]["explanation"] == "[]"
        assert got["items"][0]["failed"] == ["simulation"] and got["items"][0]["scores"]["logits"] == 0.5
        assert run("explain", workspace, tmp_path, *options, "--client", server.url, "--yes") == 0
        assert len(server.bodies) == count


def test_a_small_model_is_asked_briefly(workspace, tmp_path, capsys):
    pytest.importorskip("httpx")
    options = ["--features", 1, "--neurons", 0, "--client-model", "m", "--retries", 0, "--yes", "--ask", "brief"]
    given = lambda body: ("5", [("5", {"5": -0.7, "1": -0.7, "yes": -2.0, "no": -3.0})])
    with Endpoint(given) as server:
        assert run("explain", workspace, tmp_path, *options, "--client", server.url) == 0
        assert "numbers read from log-probabilities" in capsys.readouterr().out
        got = json.loads((tmp_path / "explain.json").read_text())
        assert got["answers"]["logprobs"] and got["answers"]["simulation"]["written"] == 0
        assert (
            not got["items"][0]["failed"] and "read from log-probabilities" in (tmp_path / "explain.html").read_text()
        )
    with Endpoint(lambda body: "5") as server:
        options += ["--logprobs", "yes", "--out", tmp_path / "b"]
        assert run("explain", workspace, tmp_path, *options, "--client", server.url) == 2
        error = capsys.readouterr().err
        assert "logprobs: wanted, but the endpoint gives no log-probabilities" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--client", "http://127.0.0.1:9/v1"), "--client-model"),
        (("--client-model", "m"), "the local interpreter has no model"),
        (("--features", -1), "features: got -1"),
        (("--features", 0, "--neurons", 0), "cases: got none"),
        (("--shuffled", "sae"), "the model itself"),
    ],
)
def test_errors_are_one_line(workspace, tmp_path, capsys, options, message):
    options = [workspace / "sae" if o == "sae" else o for o in options]
    assert run("explain", workspace, tmp_path, *options) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "explain.json").exists()


def test_rate_and_score(workspace, tmp_path, capsys):
    assert run("rate", workspace, tmp_path, "--features", 2, "--neurons", 2, "--shuffled", workspace / "control") == 0
    output = capsys.readouterr().out
    key = json.loads((tmp_path / "rate.key.json").read_text())
    assert "6 items to rate" in output and "open file://" in output and len(key["items"]) == 6
    assert run("rate", workspace, tmp_path) == 2 and "earlier study" in capsys.readouterr().err
    points = {"features": 3, "neurons": 0, "shuffled": 1}
    answers = {
        n: {
            s: points[w["kind"]] if s != "separation" else 0
            for s in ("confidence", "high", "logits", "separation", "specificity")
        }
        for n, w in key["items"].items()
    }
    saved = tmp_path / "answers.json"
    saved.write_text(json.dumps({"format": 1, "study": key["study"], "annotator": "Ada", "answers": answers}))
    assert main(["rate", "--score", str(saved)]) == 0
    assert "features" in capsys.readouterr().out
    got = json.loads((tmp_path / "rubric.json").read_text())
    assert {k: s["points"]["median"] for k, s in got["kinds"].items()} == {"features": 12, "neurons": 0, "shuffled": 4}
    assert "median points" in (tmp_path / "rubric.html").read_text()
    (tmp_path / "rate.key.json").rename(tmp_path / "hidden.json")
    assert main(["rate", "--score", str(saved)]) == 2 and "--key" in capsys.readouterr().err
    assert main(["rate", "--score", str(saved), "--key", str(tmp_path / "hidden.json")]) == 0
    assert main(["rate"]) == 2 and "folder: got none" in capsys.readouterr().err
