"""Every kind of file, damaged in every known way, gives one error that names it, or loads unchanged."""

import json
import shutil
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import monosem as ms
from monosem.analysis.dashboard.overlays import automaton_links
from monosem.analysis.evidence.rate.ratings import measure_files
from monosem.analysis.evidence.rate.steps import STEPS
from monosem.analysis.index import build_index, open_index
from monosem.analysis.inputs import Subject
from monosem.cli.main import main
from monosem.data import models, native, sealed
from monosem.data.contexts import load_contexts
from monosem.data.harvest import harvest
from monosem.data.language_model import LMConfig, Transformer
from monosem.data.store import ActivationStore
from monosem.data.text import Document
from monosem.data.token_rows import pack_rows
from monosem.data.tokenizer import train_tokenizer
from monosem.train import checkpoint

HOOK = "blocks.0.mlp.hook_post"
TEXTS = ["the cat sat on the mat and looked at the dog " * 3, "der Hund sah die Katze an und lief davon " * 3]
ODD = [None, True, -1, 0, 3, 10**30, 1e300, float("nan"), "x", "", [], [1], {}, {"a": 1}]


def read_index(folder):
    index = open_index(folder)
    for feature in (0, 1):
        index.top(feature), index.histogram(feature), index.top_tokens(feature), index.coactive(feature)
        index.codes.of(feature)


READERS = {
    "sae": ms.load,
    "lm": models.load_model,
    "store": lambda folder: [None for _ in ActivationStore(folder, 8)],
    "index": read_index,
    "run": lambda folder: checkpoint.load(folder, checkpoint.saved_steps(folder)[-1]),
    "automata": lambda folder: automaton_links(folder / "automata.json"),
    "rate": lambda folder: measure_files([folder / "answers.json"], folder / "key.json"),
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """One folder of every kind."""
    root = tmp_path_factory.mktemp("workspace")
    shape = LMConfig(d_vocab=300, n_ctx=16, n_layers=1, d_model=8, n_heads=2, d_mlp=16)
    native.save_folder(root / "lm", Transformer(shape).init_weights(0), train_tokenizer(TEXTS, 300))
    model = models.load_model(root / "lm")
    sae = ms.TopKSAE(16, 32, 4, seed=0)
    ms.save(sae, root / "sae", {"hook_name": HOOK, "model": str(root / "lm")})
    rows = pack_rows([Document("x", t) for t in TEXTS], model)
    harvest(model, HOOK, np.asarray(rows.tokens), root / "store", progress=False)
    build_index(Subject(sae, model, HOOK), rows, root / "index", progress=False)
    run = ms.Trainer(sae, ms.TrainConfig(batch_size=8, steps=2), root / "run", progress=False)
    run.fit(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))
    edge = {"from": 0, "to": 1, "strength": 2.0}
    (root / "automata").mkdir()
    graphs = {"loops": [], "cycles": [], "chains": [{"edges": [edge]}]}
    sealed.write(root / "automata" / "automata.json", graphs)
    (root / "rate").mkdir()
    key = {"study": "s", "format": 1, "items": {"1": {"kind": "features", "feature": 3}}}
    sealed.write(root / "rate" / "key.json", key)
    answer = {step.name: 1 for step in STEPS} | {"fits": {"1": True}}
    answers = {"study": "s", "format": 1, "annotator": "a", "answers": {"1": answer}}
    (root / "rate" / "answers.json").write_text(json.dumps(answers))
    return root


def damages(path: Path, rng: np.random.Generator):
    """(what, bytes) of a damaged file; None: a folder stands in its place."""
    good = path.read_bytes()
    yield "nothing in it", b""
    yield "half", good[: len(good) // 2]
    yield "one byte less", good[:-1]
    yield "other bytes", rng.bytes(200)
    yield "zeros", bytes(len(good))
    yield "a folder", None
    for _ in range(4):
        bad = bytearray(good)
        bad[int(rng.integers(len(bad)))] ^= 1 << int(rng.integers(8))
        yield "a flipped bit", bytes(bad)
    if path.suffix == ".json" and path.name != "state.json":
        record = json.loads(good)
        for name in ("digests", "sha256"):  # as an older version wrote it, without digests
            record.pop(name, None)
        yield from (("other JSON", json.dumps(v).encode()) for v in ([], 1, None, "x", {}))
        yield "deep", b'{"x": ' + b"[" * 100_000
        yield "deep but whole", b'{"x": ' + b"[" * 900 + b"]" * 900 + b"}"
        yield "a huge number", b'{"format": ' + b"9" * 5000 + b"}"
        for place in places(record):
            for value in [ODD[int(i)] for i in rng.choice(len(ODD), 3, replace=False)]:
                yield f"{place} = {value!r}", json.dumps(changed(record, place, value)).encode()
            yield f"{place} is missing", json.dumps(changed(record, place, None, remove=True)).encode()
    if path.suffix == ".safetensors":
        yield from ((what, content) for what, content in safetensors(good))
    if path.suffix == ".npy":
        for array in (np.zeros(3, np.float64), np.zeros((2, 2), np.int16), np.array("x"), np.zeros((0, 5), np.int32)):
            shutil.rmtree(path.parent / "other", ignore_errors=True)
            np.save(path.with_name("other.npy"), array)
            content = path.with_name("other.npy").read_bytes()
            path.with_name("other.npy").unlink()
            yield f"an array {array.dtype} {array.shape}", content


def places(record, limit=25):
    """The places of values in a record, two levels deep."""
    first = [(k,) for k in record]
    return (first + [(k, j) for k, v in record.items() if isinstance(v, dict) for j in v])[:limit]


def changed(record, place, value, remove=False):
    record = json.loads(json.dumps(record))
    at = record
    for name in place[:-1]:
        at = at[name]
    if remove:
        del at[place[-1]]
    else:
        at[place[-1]] = value
    return record


def safetensors(good):
    """Files with one tensor of another type or shape, left out, or not finite."""
    length = struct.unpack("<Q", good[:8])[0]
    header, data = json.loads(good[8 : 8 + length]), good[8 + length :]
    for name in [n for n in header if n != "__metadata__"][:3]:
        entry = header[name]
        yield f"{name} is I32", pack(header | {name: entry | {"dtype": "I32"}}, data)
        yield f"{name} is flat", pack(header | {name: entry | {"shape": [int(np.prod(entry["shape"]))]}}, data)
        yield f"{name} is called otherwise", pack({("z" if k == name else k): v for k, v in header.items()}, data)
        first, last = entry["data_offsets"]
        yield f"{name} is NaN", pack(header, data[:first] + b"\xff" * (last - first) + data[last:])
    yield "a huge header", struct.pack("<Q", 1 << 60) + good[8:]


def pack(header, data):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("kind", READERS)
def test_a_damaged_file_is_named(kind, older, workspace, tmp_path):
    folder, read = tmp_path / kind, READERS[kind]
    shutil.copytree(workspace / kind, folder)
    if older:
        unseal(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read(folder)
        rng = np.random.default_rng(0)
        for path in sorted(p for p in folder.rglob("*") if p.suffix in (".json", ".safetensors", ".npy", ".bin")):
            if kind == "run" and path.parent == folder:
                continue  # the dictionary, a kind of its own
            good = path.read_bytes()
            for what, content in damages(path, rng):
                if older and kind == "index" and what.startswith("an array"):
                    continue  # whole arrays of another shape, under no digest: nothing tells which was meant
                path.unlink()
                path.write_bytes(content) if content is not None else path.mkdir()
                try:
                    read(folder)
                except (ValueError, OSError) as error:
                    assert path.name in str(error) or folder.name in str(error), f"{path.name}, {what}: {error}"
                    assert len(str(error)) < 2000, f"{path.name}, {what}: {len(str(error))} characters"
                except Exception as error:
                    pytest.fail(f"{path.relative_to(folder)}, {what}: {type(error).__name__}: {error}")
                if content is None:
                    path.rmdir()
                path.write_bytes(good)


def unseal(folder):
    """As a version without digests wrote it, so that the checks after the digests are tested too."""
    for path in folder.glob("*.json"):
        record = json.loads(path.read_text())
        if record.pop("sha256", None):
            del record["digests"]
            path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("evaluate", "SAE", "--device", "cuda"), "device: got 'cuda'"),
        (("evaluate", "SAE", "--device", "nonsense"), "device: got 'nonsense'; wanted cpu"),
        (("train", "--device", "cuda:7", "--out", "OUT"), "device: got 'cuda:7'"),
        (("steer", "SAE", "--pin", "99999"), "feature: got 99999; wanted 0 to 31"),
        (("steer", "SAE", "--pin", "99999=2"), "feature: got 99999; wanted 0 to 31"),
        (("evaluate", "SAE", "--text", "FOLDER"), "FOLDER"),
    ],
)
def test_mistakes_are_reported_in_one_line(argv, message, workspace, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    names = {"SAE": workspace / "sae", "OUT": tmp_path / "out", "FOLDER": tmp_path}
    assert main([str(names.get(a, a)) for a in argv]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and str(names.get(message, message)) in line


@pytest.mark.parametrize(
    "error", [KeyError("x"), TypeError("a\nb"), MemoryError(), RecursionError("deep"), AssertionError(), EOFError()]
)
def test_an_unexpected_error_names_the_files_and_the_traceback_variable(error, workspace, capsys, monkeypatch):
    from monosem.cli import evaluate

    def fail(args):
        raise error

    monkeypatch.setattr(evaluate, "run", fail)
    assert main(["evaluate", str(workspace / "sae")]) == 2
    output = capsys.readouterr().err
    assert output.count("\n") == 1 and str(workspace / "sae") in output and "Traceback" not in output
    monkeypatch.setenv("MONOSEM_TRACEBACK", "1")
    main(["evaluate", str(workspace / "sae")])
    assert "Traceback" in capsys.readouterr().err


def test_damaged_tokens_are_named(workspace, tmp_path):
    model = models.load_model(workspace / "lm")
    path = tmp_path / "tokens.npy"
    np.save(path, np.ones((3, 8), np.int32))
    rng = np.random.default_rng(0)
    for what, content in damages(path, rng):
        path.unlink()
        path.write_bytes(content) if content is not None else path.mkdir()
        try:
            load_contexts(model, tokens=path)
        except (ValueError, OSError) as error:
            assert "tokens" in str(error), what
        if content is None:
            path.rmdir()
        path.touch()
