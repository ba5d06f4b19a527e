"""Activations of several hooks, or models, on the same tokens: side by side, in one pass per model."""

import numpy as np
import pytest
import torch
from fake_model import HOOK, FakeModel, numbered, token_of
from tiny import tiny_model

import monosem as ms
from monosem.data import fingerprint
from monosem.data.harvest import ActivationStream, harvest
from monosem.data.sites import Sites, matching
from monosem.data.store import ActivationStore

AFTER = "blocks.0.hook_resid_post"
MLP = ("blocks.0.ln2.hook_normalized", "blocks.0.hook_mlp_out")


def test_several_hooks_are_read_in_one_pass():
    model, tokens = tiny_model(n_layers=2), torch.randint(1, 300, (3, 32), generator=torch.Generator().manual_seed(0))
    names = ["blocks.1.mlp.hook_post", *MLP, "blocks.0.hook_resid_pre"]
    passes, forward = [], model._forward
    model._forward = lambda *given: passes.append(1) or forward(*given)
    got = model.activations_at(tokens, names)
    assert len(passes) == 1
    assert all(torch.equal(x, model.activations(tokens, name)) for x, name in zip(got, names, strict=True))


def test_what_was_read_is_not_changed_by_the_rest_of_the_pass():
    model, tokens = tiny_model(), torch.ones(1, 4, dtype=torch.int64)
    before, forward = model.activations(tokens, MLP[0]), model._forward

    def in_place(tokens, hooks):
        read = hooks[MLP[0]]
        forward(tokens, hooks | {MLP[0]: lambda value: (read(value), value.mul_(3))[1]})

    model._forward = in_place
    assert torch.equal(model.activations_at(tokens, MLP)[0], before)


def test_the_norm_before_the_mlp_can_be_read_and_replaced():
    model, tokens = tiny_model(), torch.randint(1, 300, (2, 9), generator=torch.Generator().manual_seed(0))
    norm, hook = model.module.layers[0].ln2, MLP[0]
    resid = model.activations(tokens, "blocks.0.hook_resid_mid").double()
    expected = (resid - resid.mean(-1, keepdim=True)) / (resid.var(-1, keepdim=True, correction=0) + norm.eps).sqrt()
    torch.testing.assert_close(model.activations(tokens, hook), expected.float(), atol=1e-5, rtol=1e-5)
    clean = model.token_losses(tokens)
    torch.testing.assert_close(model.token_losses(tokens, {hook: lambda x: x.clone()}), clean)
    assert not torch.allclose(model.token_losses(tokens, {hook: torch.zeros_like}), clean)


def stream(model, hooks, seed=0, **options):
    return ActivationStream(model, hooks, numbered(37), 50, seed, epochs=1, buffer_contexts=8, **options)


def test_every_row_of_a_stream_is_one_token():
    model = FakeModel(5)
    batches = list(stream(model, [HOOK, AFTER]))
    x, y = torch.cat(batches).split([5, 5], 1)
    assert torch.equal(y, -x)
    assert sorted(token_of(x).tolist()) == sorted(numbered(37)[:, 1:].flatten().tolist())
    other = torch.cat(list(stream([FakeModel(5), FakeModel(4)], HOOK)))
    assert torch.equal(token_of(other[:, :5]), token_of(other[:, 5:])) and other.shape[1] == 9
    alone = torch.cat(list(stream(model, HOOK)))
    assert torch.equal(alone, x)  # in the order of a stream of one hook


def test_a_stream_of_several_resumes_bitwise():
    whole = list(stream(FakeModel(), [HOOK, AFTER]))
    first = stream(FakeModel(), [HOOK, AFTER])
    iterator = iter(first)
    for _ in range(4):
        next(iterator)
    again = stream(FakeModel(), [HOOK, AFTER])
    again.load_state_dict(first.state_dict())
    rest = list(again)
    assert len(rest) == len(whole) - 4 and all(map(torch.equal, rest, whole[4:]))
    with pytest.raises(ValueError, match="hook_name"):
        stream(FakeModel(), [AFTER, HOOK]).load_state_dict(first.state_dict())
    with pytest.raises(ValueError, match="hook_name"):
        stream(FakeModel(), HOOK).load_state_dict(first.state_dict())


def test_a_store_of_several_gives_what_the_stream_gives(tmp_path):
    model, tokens = FakeModel(5), numbered(37)
    store = harvest(model, [HOOK, AFTER], tokens, tmp_path / "store", "fp32", progress=False)
    assert store.widths == (5, 5) and store.hook_name == [HOOK, AFTER] and store.model_name == "fake"
    stored = store.read(np.arange(store.n_stored))[0]
    assert torch.equal(stored[:, 5:], -stored[:, :5])
    batch = next(iter(ActivationStore(tmp_path / "store", 100)))
    assert torch.equal(batch[:, 5:], -batch[:, :5])
    harvest(model, [HOOK, AFTER], tokens, tmp_path / "store", "fp32", progress=False)  # complete: only checked
    with pytest.raises(ValueError, match="holds other activations"):
        harvest(model, HOOK, tokens, tmp_path / "store", "fp32", progress=False)


def test_a_transcoder_trains_on_a_stream_and_resumes_bitwise(tmp_path):
    model = tiny_model()
    tokens = torch.randint(1, 300, (12, 32), generator=torch.Generator().manual_seed(0))

    def train(folder, *stops):
        for steps in stops:
            sae = ms.Transcoder(16, 16, 24, k=4, seed=0)
            config = ms.TrainConfig(
                batch_size=40, steps=steps, lr_decay=0, lr_warmup=0, log_every=1, checkpoint_every=3
            )
            source = ActivationStream(model, MLP, tokens, 40, epochs=None)
            ms.Trainer(sae, config, tmp_path / folder, progress=False).fit(source, resume=True)
        return ms.load(tmp_path / folder)

    whole, parts = train("whole", 9), train("parts", 5, 9)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))
    assert whole.metadata["hook_name"] == list(MLP) and whole.metadata["model"] == "tiny"
    with pytest.raises(ValueError, match=r"widths 32 \+ 16 side by side; wanted 16 \+ 32"):
        wrong = ActivationStream(model, ("blocks.0.mlp.hook_pre", MLP[1]), tokens, 40)
        ms.Trainer(ms.Transcoder(16, 32, 24, k=4), ms.TrainConfig(batch_size=40, steps=1), progress=False).fit(wrong)


def test_models_that_do_not_read_the_same_tokens_are_refused():
    a, b = tiny_model(), tiny_model(seed=1)
    assert Sites([a, b], "blocks.0.mlp.hook_post").widths == (32, 32)
    assert fingerprint.of_models([a, b]).split()[0] == "LanguageModel+LanguageModel"
    assert fingerprint.of_models([a, FakeModel()]) is None
    with pytest.raises(ValueError, match="'tiny' and 'fake' do not share a tokenizer"):
        Sites([a, FakeModel()], HOOK)
    spelled = tiny_model(seed=1)
    spelled.token_bytes = lambda token: a.token_bytes(token + (token == 290))
    with pytest.raises(ValueError, match="do not share a tokenizer"):
        Sites([a, spelled], HOOK)
    shorter = tiny_model(seed=1, n_ctx=16)
    with pytest.raises(ValueError, match="reads at most 16"):
        ActivationStream([a, shorter], HOOK, np.ones((4, 32), np.int64), 8)


@pytest.mark.parametrize(
    "models, hooks, said",
    [(1, [], "0 hooks of 1 models"), (2, [HOOK] * 3, "3 hooks of 2 models"), (1, [HOOK, HOOK], "each activation once")],
)
def test_other_numbers_of_models_and_hooks_are_refused(models, hooks, said):
    with pytest.raises(ValueError, match=said):
        Sites([FakeModel() for _ in range(models)], hooks)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("blocks.*.hook_mlp_out", ["blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"]),
        ("blocks.[1-9].mlp.hook_p*", ["blocks.1.mlp.hook_pre", "blocks.1.mlp.hook_post"]),
        ("layers.*", ["layers.0", "layers.1"]),
        ("layers.?:in", ["layers.0:in"]),
        ("layers.*.mlp", ["layers.0.mlp"]),
    ],
)
def test_a_pattern_stands_for_hooks(pattern, expected):
    model = tiny_model(n_layers=2)
    model.hook_names += ["layers.0:in", "layers.0.mlp", "layers.0", "layers.1"]
    assert matching(pattern, model) == expected


def test_hooks_by_a_pattern_are_read_side_by_side():
    model, tokens = tiny_model(n_layers=2), torch.ones(1, 4, dtype=torch.int64)
    sites = Sites(model, "blocks.*.hook_mlp_out")
    assert sites.hook_name == ["blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"] and sites.widths == (16, 16)
    assert torch.equal(sites.activations(tokens), torch.cat(model.activations_at(tokens, sites.hook_name), -1))
    assert Sites(model, "blocks.0.hook_mlp_*").hook_name == "blocks.0.hook_mlp_out"
    with pytest.raises(ValueError, match=r"no hook of 'tiny' matches 'blocks\.\*\.hook_mpl'.* nearest: blocks"):
        Sites(model, "blocks.*.hook_mpl")
