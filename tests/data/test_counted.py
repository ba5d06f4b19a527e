"""BOS and padding are read by the model and left out of streams, stores, evaluations and indexes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_model import HOOK as FAKE_HOOK
from fake_model import FakeModel
from tiny import HOOK, tiny_documents, tiny_model

from monosem.analysis.evidence.ablation import ablation
from monosem.analysis.evidence.explain import gather
from monosem.analysis.index import IndexSettings, build_index
from monosem.analysis.inputs import Subject
from monosem.analysis.metrics import evaluate
from monosem.analysis.steered_reading import reading
from monosem.analysis.steering import Edit, Steering, log_likelihood_change
from monosem.data.contexts import load_contexts
from monosem.data.counted import counted, skipped_ids
from monosem.data.harvest import ActivationStream, harvest
from monosem.data.store import ActivationStore
from monosem.data.text import Document
from monosem.data.token_rows import TokenRows, pack_rows
from monosem.nn import TopKSAE

BOS, PAD = 0, 9


class Padded(FakeModel):
    """``FakeModel`` with a padding token."""

    class tokenizer:
        pad_token_id = PAD


def padded_rows() -> np.ndarray:
    """Left-padded, right-padded, with a BOS inside, and nothing but padding."""
    rows = np.arange(100, 180).reshape(5, 16)
    rows[0, :6], rows[0, 6] = PAD, BOS
    rows[1, 0], rows[1, 11:] = BOS, PAD
    rows[2, [0, 7]] = BOS
    rows[3] = PAD
    rows[4, 0] = BOS
    return rows


def expected() -> list[int]:
    rows = padded_rows()
    return sorted(rows[(rows != BOS) & (rows != PAD)].tolist())


def test_names_and_ids():
    assert skipped_ids(Padded()) == (BOS, PAD) and skipped_ids(Padded(), ()) == ()
    assert skipped_ids(Padded(), ["bos", 7, np.int64(3)]) == (0, 3, 7) and skipped_ids(FakeModel()) == (BOS,)
    for wrong in ("mask", -1, 65_536, True, 1.5):
        with pytest.raises(
            ValueError,
            match=r"skip_tokens: got .*; wanted 'bos', 'eos', 'pad', 'special' or the id of a token, 0 to 655",
        ):
            skipped_ids(Padded(), [wrong])
    assert counted(np.array([[0, 5, 0, 6]]), 1, (0,)).tolist() == [[False, True, False, True]]


def test_end_of_text_and_all_special_tokens_have_names(model):
    class Chat(FakeModel):
        class tokenizer:
            eos_token_id, pad_token_id, unk_token_id = 2, PAD, 1
            all_special_ids = [1, 2, PAD]
            added_tokens_decoder = {2: SimpleNamespace(special=True), 50: SimpleNamespace(special=True)} | {
                51: SimpleNamespace(special=False)  # an added word
            }

    assert skipped_ids(Chat(), ["eos"]) == (2,) and skipped_ids(FakeModel(), ["eos", "special"]) == ()
    assert skipped_ids(Chat(), ["bos", "special"]) == (BOS, 2, PAD, 50)
    assert skipped_ids(model, ["special"]) == (model.bos_id,)


def test_stream_and_store_leave_skipped_tokens_out(tmp_path):
    stream = ActivationStream(Padded(), FAKE_HOOK, padded_rows(), 7, epochs=2, forward_contexts=2, buffer_contexts=2)
    tokens = torch.cat(list(stream))[:, 0].view(2, -1)
    assert stream.n_tokens == len(expected())
    assert all(epoch.sort().values.tolist() == expected() for epoch in tokens)
    for shard_of in (1, 2, 64):  # among them a shard of padding only
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("monosem.data.harvest._per_shard", lambda *_, n=shard_of: n)
            folder = tmp_path / str(shard_of)
            store = harvest(Padded(), FAKE_HOOK, padded_rows(), folder, "fp32", progress=False)
            assert store.n_stored == len(expected())
            activations, row, position = store.read(range(store.n_stored))
            assert np.array_equal(store.tokens[row, position], activations[:, 0].int())
            assert sorted(torch.cat(list(ActivationStore(folder)))[:, 0].int().tolist()) == expected()
            parts = [ActivationStore(folder, holdout=0.4, held_out=out) for out in (False, True)]
            assert sorted(int(x) for part in parts for b in part for x in b[:, 0]) == expected()
            harvest(Padded(), FAKE_HOOK, padded_rows(), folder, "fp32", progress=False)  # whole: nothing is done
            with pytest.raises(ValueError, match=r"skip_tokens: \[0, 9\] there, None here"):
                harvest(Padded(), FAKE_HOOK, padded_rows(), folder, "fp32", skip_tokens=(), progress=False)


def test_settings_without_skipped_tokens_equal_those_of_older_versions():
    rows = np.arange(1, 33).reshape(2, 16) + 100
    new = ActivationStream(Padded(), FAKE_HOOK, rows, 7)
    assert "skip_tokens" not in new.state_dict()["settings"]
    assert "skip_tokens" in ActivationStream(Padded(), FAKE_HOOK, padded_rows(), 7).state_dict()["settings"]


def test_skipping_every_token_is_refused():
    with pytest.raises(ValueError, match=r"skip_tokens: every token of these 2 contexts is left out .* ids \[0, 9\]"):
        ActivationStream(Padded(), FAKE_HOOK, np.full((2, 16), PAD))


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_evaluation_and_index_count_the_same(model):
    documents = [d for d in tiny_documents() for d in (d, Document("short", "a b"))]
    rows = pack_rows(documents, model)
    tokens = np.asarray(rows.tokens)
    inside = int((tokens[:, 1:] == model.bos_id).sum())
    assert inside > 10
    sae = TopKSAE(model.width(HOOK), 64, 4, seed=0)
    activations = evaluate(sae, model, HOOK, rows, progress=False)
    everything = evaluate(sae, model, HOOK, rows, skip_tokens=(), progress=False)
    assert activations.tokens == tokens[:, 1:].size - inside == everything.tokens - inside
    assert activations.skip_tokens == (model.bos_id,) and "token 0" in activations.table()
    losses = model.token_losses(torch.from_numpy(tokens).long())
    scored = torch.from_numpy(tokens[:, 1:] != model.bos_id)
    assert activations.ce_clean == pytest.approx(float(losses[scored].double().mean()), rel=1e-5)
    subject = Subject(sae, model, HOOK)
    index = build_index(subject, rows, settings=IndexSettings(neurons=False), progress=False)
    assert index.tokens == activations.tokens
    examples = [e for f in range(64) for e in index.top(f)]
    assert examples and not any(tokens[e.row, e.position] == model.bos_id for e in examples)
    stream = ActivationStream(model, HOOK, rows, 64, epochs=1)
    assert stream.n_tokens == activations.tokens


def test_padding_changes_no_figure_of_an_evaluation(model):
    """Rows of padding alone, between the others and filling whole blocks."""
    rows = pack_rows(tiny_documents(), model)
    empty = torch.zeros(40, rows.tokens.shape[1], dtype=torch.int32)
    longer = TokenRows(
        torch.cat([rows.tokens[:8], empty, rows.tokens[8:]]),
        torch.cat([rows.source[:8], empty.to(rows.source.dtype), rows.source[8:]]),
        rows.sources,
    )
    sae = TopKSAE(model.width(HOOK), 64, 4, seed=0)
    plain, padded = (evaluate(sae, model, HOOK, r, contexts=8, progress=False) for r in (rows, longer))
    assert plain.tokens == padded.tokens and plain.ce_sae == pytest.approx(padded.ce_sae, rel=1e-6)
    with pytest.raises(ValueError, match="skip_tokens: every token of these 40 rows is left out"):
        evaluate(sae, model, HOOK, TokenRows(empty, empty, ["x"]), progress=False)


def test_rows_begin_with_one_bos(model):
    documents = [Document("s", "one two three four ")] * 300
    documents[::3] = [Document("s", "")] * 100
    tokens = pack_rows(documents, model).tokens
    both = (tokens[:, 1:] == model.bos_id) & (tokens[:, :-1] == model.bos_id)
    assert (tokens[:, 0] == model.bos_id).all() and not both.any()


@pytest.mark.parametrize("n_ctx", [2, 9, 32])
def test_length_of_a_context(model, n_ctx):
    rows = pack_rows(tiny_documents(), model, n_ctx=n_ctx)
    assert rows.tokens.shape == rows.source.shape == (len(rows), n_ctx)
    assert model.activations(rows.tokens[:2], HOOK).shape[1] == n_ctx


@pytest.mark.parametrize("n_ctx", [1, 0, -3, 33, 8.0, "9"])
def test_bad_context_lengths_are_refused(model, n_ctx):
    with pytest.raises(
        ValueError, match=r"n_ctx: got .*; wanted 2 to 32 tokens, BOS included, as 'tiny' reads no more"
    ):
        pack_rows(tiny_documents(), model, n_ctx=n_ctx)


def test_a_context_length_for_an_array_is_refused(model, tmp_path):
    np.save(tmp_path / "t.npy", np.zeros((2, 32), np.int32))
    with pytest.raises(ValueError, match="context: got 8 and an array of tokens"):
        load_contexts(model, tokens=tmp_path / "t.npy", context=8)


def packed(model):
    rows = pack_rows([d for d in tiny_documents() for d in (d, Document("short", "a b"))], model)
    inside = torch.from_numpy(np.asarray(rows.tokens)).long() == model.bos_id
    inside[:, 0] = False
    assert inside.sum() > 10
    return rows, inside


def test_a_bos_inside_a_row_is_not_steered(model):
    rows, inside = packed(model)
    tokens, sae = torch.from_numpy(np.asarray(rows.tokens)).long(), TopKSAE(model.width(HOOK), 64, 4, seed=0)
    seen, losses = [], model.token_losses

    class Watched:
        def __getattr__(self, name):
            return getattr(model, name)

        def token_losses(self, ids, replace=None):
            replace = {h: lambda x, f=f: seen.append((x, f(x))) or seen[-1][1] for h, f in (replace or {}).items()}
            return losses(ids, replace)

    log_likelihood_change(Watched(), HOOK, tokens, Steering(sae, [Edit(3, "pin", 5.0)], error="drop"))
    ((before, after),) = seen
    same = (before == after).all(-1)
    assert same[inside].all() and same[:, 0].all() and not same[:, 1:][~inside[:, 1:]].any()


def test_effects_of_an_edit_are_not_measured_on_bos(model):
    rows, inside = packed(model)
    subject = Subject(TopKSAE(model.width(HOOK), 64, 4, seed=0), model, HOOK)
    activations = reading(subject, rows, Steering(subject.sae, [Edit(3, "pin", 5.0)]))
    targets = inside[:, 2:]  # the first is predicted from what is left alone
    assert activations.tokens == targets.numel() - int(targets.sum())
    index = build_index(subject, rows, settings=IndexSettings(neurons=False), progress=False)
    feature = int(index.counts.argmax())
    effect, _ = ablation(subject, index, feature, range(len(rows.sources)), len(rows.tokens))
    assert effect.tokens_label + effect.tokens_other == activations.tokens


def test_explained_windows_hold_no_bos(model):
    rows, _ = packed(model)
    subject = Subject(TopKSAE(model.width(HOOK), 64, 4, seed=0), model, HOOK)
    index = build_index(subject, rows, settings=IndexSettings(neurons=False), progress=False)
    features = [f for f in range(64) if index.counts[f] >= 20][:6]
    cases, tokens = gather(subject, index, rows, features, "features"), np.asarray(rows.tokens)
    shown = [s.window for case in cases for s in (*case.explain, *case.test, *case.spare)]
    assert len(shown) > 50
    for window in shown:
        assert (tokens[window.row, window.position - 4 : window.position + 5] != model.bos_id).all()
