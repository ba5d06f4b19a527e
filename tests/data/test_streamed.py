"""Activations of a text that is read on the way: the contexts of ``pack_rows``, from any position."""

import json

import numpy as np
import pytest
import torch
from tiny import HOOK, TEXTS, tiny_model

import monosem as ms
from monosem.cli.main import main
from monosem.data.context_reader import ContextReader
from monosem.data.documents import Documents
from monosem.data.filled import FillingStopped
from monosem.data.harvest import ActivationStream
from monosem.data.native import save_folder
from monosem.data.norm_limit import NormLimit
from monosem.data.streamed import StreamedActivations

LONG = " ".join(TEXTS["en"] for _ in range(20))  # longer than several contexts


def records(count, first=0):
    texts = [*TEXTS.values(), "", LONG, "a"]
    return [{"text": f"{texts[i % 7]} {i}" if texts[i % 7] else "", "source": "s"} for i in range(first, first + count)]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three files of JSON lines."""
    folder = tmp_path_factory.mktemp("text")
    for i in range(3):
        (folder / f"{i}.jsonl").write_text("\n".join(map(json.dumps, records(30, 30 * i))))
    return folder


def stream(model, text, **options):
    options = {"batch_size": 64, "buffer_contexts": 8, "epochs": 1} | options
    return StreamedActivations(model, HOOK, text if isinstance(text, Documents) else str(text), **options)


def packed(model, documents):
    return ms.pack_rows(list(documents), model).tokens.numpy()


def test_a_reader_gives_the_rows_of_pack_rows(model, folder):
    documents = Documents(folder / "0.jsonl")
    expected = packed(model, documents)
    reader = ContextReader(documents, model)
    assert np.array_equal(np.concatenate([reader.take(5, 1) for _ in range(len(expected) // 5 + 2)]), expected)
    twice = ContextReader(documents, model).take(2 * len(expected) + 3, 2)
    assert np.array_equal(twice, np.concatenate([expected, expected]))
    assert len(ContextReader(documents, model).take(3 * len(expected))) == 3 * len(expected)


def test_a_reader_goes_on_from_any_row(model, folder):
    documents = Documents(folder)
    reader, rows, states = ContextReader(documents, model, 9, seed=3), [], []
    while reader.epoch < 2:
        states.append(json.loads(json.dumps(reader.state_dict())))
        rows.append(reader.take(1))
    assert {s["part"] for s in states} == {0, 1, 2} and len(rows) > 500
    for at in (1, 59, len(rows) - 80, len(rows) - 1):
        again = ContextReader(documents, model, 9, seed=3)
        again.load_state_dict(states[at])
        assert again.state_dict() == states[at]
        assert np.array_equal(again.take(len(rows) - at), np.concatenate(rows[at:]))


def test_the_order_of_the_files_is_drawn_by_the_seed(model, folder):
    orders = set()
    for seed in range(12):
        reader = ContextReader(Documents(folder), model, seed=seed)
        orders.add(reader.take(20).tobytes())
    assert len(orders) == 3  # the first 20 contexts are of one file


def test_every_token_comes_once_per_epoch(model, folder):
    rows = packed(model, Documents(folder / "0.jsonl"))
    whole = torch.cat(list(ActivationStream(model, HOOK, rows, 64, epochs=1)))
    source = stream(model, folder / "0.jsonl")
    batches = list(source)
    assert all(len(b) == 64 for b in batches[:-1])
    ordered = lambda x: x[np.lexsort(x.T.numpy())]
    assert torch.equal(ordered(torch.cat(batches)), ordered(whole))
    assert source.d_in == 32 and source.hook_name == HOOK and source.n_tokens is None
    assert len(torch.cat([*source])) == len(whole)  # iterating again is the next epoch
    # A window of eight contexts is shuffled.
    first = model.activations(torch.from_numpy(rows[:8]).long(), HOOK)[torch.from_numpy(rows[:8] != model.bos_id)]
    taken = torch.cat(batches)[: len(first)]
    assert not torch.equal(taken, first) and torch.equal(ordered(taken), ordered(first))
    assert not torch.equal(taken, torch.cat(list(stream(model, folder / "0.jsonl", seed=1)))[: len(first)])


@pytest.mark.parametrize("skip_norm", [None, 1.3])
def test_a_position_resumes_bitwise(model, folder, skip_norm):
    options = {"epochs": 2, "seed": 5, "skip_norm": skip_norm}
    source, batches, states = stream(model, folder, **options), [], []
    for batch in source:
        batches.append(batch)
        states.append(json.loads(json.dumps(source.state_dict())))
    assert (source.left_out > 0) == (skip_norm is not None)
    for at in (0, 3, len(batches) // 2, len(batches) - 1):
        resumed = stream(model, folder, **options)
        resumed.load_state_dict(states[at])
        rest = list(resumed)
        assert len(rest) == len(batches) - at - 1
        assert all(torch.equal(a, b) for a, b in zip(rest, batches[at + 1 :], strict=True))
        assert (resumed.left_out, resumed._position) == (source.left_out, source._position)


def test_a_stop_while_a_window_is_filled_leaves_the_position(model, folder):
    source, plain = stream(model, folder), list(stream(model, folder))
    iterator = iter(source)
    batches = [next(iterator)]
    calls = []
    source.stopping = lambda: calls.append(1) or len(calls) == 2
    with pytest.raises(FillingStopped):
        while True:
            batches.append(next(iterator))
    source.stopping = None
    batches += list(source)
    assert all(torch.equal(a, b) for a, b in zip(batches, plain, strict=True))


def test_a_position_of_other_activations_is_refused(model, folder):
    state = stream(model, folder).state_dict()
    for options, message in (
        ({"seed": 1}, "seed: 0 there, 1 here"),
        ({"batch_size": 32}, "batch_size: 64 there, 32 here"),
        ({"buffer_contexts": 4}, "buffer_contexts: 8 there, 4 here"),
        ({"n_ctx": 8}, "n_ctx: 32 there, 8 here"),
        ({"skip_norm": 10}, "skip_norm: None there, 10.0 here"),
    ):
        with pytest.raises(ValueError, match=f"state: the saved position belongs to other activations .*{message}"):
            stream(model, folder, **options).load_state_dict(state)
    with pytest.raises(ValueError, match=r"text: .*0.jsonl.* there"):
        stream(model, folder).load_state_dict(stream(model, folder / "0.jsonl").state_dict())
    default = stream(model, folder, buffer_contexts=None)
    default.load_state_dict(state)  # a default follows the saved position
    assert len(list(default)) == len(list(stream(model, folder)))
    with pytest.raises(ValueError, match=r"state: got {}, without"):
        default.load_state_dict({})


def test_texts_that_give_nothing_are_refused(model, folder, tmp_path):
    (tmp_path / "short.jsonl").write_text('{"text": "a b"}')
    with pytest.raises(
        ValueError, match=r"short.jsonl' holds \d tokens for split 'all'; wanted at least 31, one context"
    ):
        stream(model, tmp_path / "short.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"empty.jsonl' holds 0 tokens"):
        stream(model, tmp_path / "empty.jsonl")
    with pytest.raises(ValueError, match="skip_norm: every token of the text has a norm above 2 times"):
        next(iter(stream(model, folder, epochs=None, skip_norm=NormLimit(2, (1e-6,)))))
    with pytest.raises(ValueError, match="buffer_contexts: got 0; wanted an integer ≥ 1"):
        stream(model, folder, buffer_contexts=0)


def test_a_stream_of_hugging_face_resumes_where_it_stopped(model):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list(records(60)).to_iterable_dataset(num_shards=2)
    source = stream(model, Documents(rows), epochs=None)
    batches = [b for _, b in zip(range(20), source, strict=False)]
    resumed = stream(model, Documents(rows), epochs=None)
    again = [b for _, b in zip(range(8), resumed, strict=False)]
    assert torch.equal(again[7], batches[7])
    state, resumed = resumed.state_dict(), stream(model, Documents(rows), epochs=None)
    resumed.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(resumed, batches[8:], strict=False))


def test_a_run_from_the_command_line_resumes_bitwise(folder, tmp_path, capsys):
    own = tiny_model()
    save_folder(tmp_path / "model", own.module, own.tokenizer)
    train = ["train", "--model", str(tmp_path / "model"), "--text", str(folder / "*.jsonl"), "--stream", "--quiet"]
    train += ["--d-sae", "40", "--k", "4", "--batch-size", "64", "--checkpoint-every", "7"]
    assert main([*train, "--steps", "40", "--out", str(tmp_path / "whole")]) == 0
    assert "a stream of activations of width" in capsys.readouterr().out
    assert main([*train, "--steps", "40", "--out", str(tmp_path / "parts")]) == 0
    for step in (35, 40):  # as after a kill
        (tmp_path / "parts" / f"ckpt-{step}").rename(tmp_path / f"was-{step}")
    (tmp_path / "was-35").rename(tmp_path / "parts" / "ckpt-35")
    assert main([*train, "--steps", "40", "--out", str(tmp_path / "parts")]) == 0
    a, b = (ms.load(tmp_path / name) for name in ("whole", "parts"))
    assert all(torch.equal(v, b.state_dict()[n]) for n, v in a.state_dict().items())
    assert a.metadata["split"] == "train" and a.metadata["text"]["text"].endswith("*.jsonl")
    capsys.readouterr()
    for more, message in (
        ([], "--steps: got none beside --stream; wanted their number"),
        (["--steps", "4", "--contexts", "3"], "--contexts: got 3; it has no effect beside --stream"),
    ):
        assert main([*train, *more, "--out", str(tmp_path / "other")]) == 2
        assert message in capsys.readouterr().err
