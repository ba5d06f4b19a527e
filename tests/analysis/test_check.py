"""``check`` prints what a dictionary explains, and says when its scale, hook or model is evidently wrong."""

import pytest
import torch
from tiny import HOOK, tiny_documents, tiny_model

import monosem as ms

IN, OUT = "blocks.0.mlp.hook_pre", "blocks.0.hook_mlp_out"


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def sae(model):
    """A dictionary that gives the neurons back: a feature for each sign of each neuron, and many that never fire."""
    sae = ms.JumpReLUSAE(32, 256, decoder_norm="free", initial_threshold=1e-3, bandwidth=1.0, l0_coefficient=0.0)
    with torch.no_grad():
        eye = torch.eye(32)
        sae.W_enc_rows.zero_()[:64] = torch.cat([eye, -eye])
        sae.W_dec[:64] = torch.cat([eye, -eye])
        sae.b_enc.zero_()
    sae.metadata = {"hook_name": HOOK, "model": "the tiny one"}
    return sae.eval()


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    path.write_text("\n".join(f'{{"text": "{d.text.encode("unicode_escape").decode()}"}}' for d in english()))
    return path


def english():
    return [d for d in tiny_documents(12) if d.source == "en"]


def scaled(sae, factor):
    """The dictionary of activations that are ``factor`` times as large; its biases and thresholds stay."""
    other = ms.JumpReLUSAE(32, 256, decoder_norm="free", initial_threshold=1e-3, bandwidth=1.0, l0_coefficient=0.0)
    other.load_state_dict(sae.state_dict())
    with torch.no_grad():
        other.b_enc.fill_(-0.05 * factor)  # of the size of the activations that it was made for
        other.threshold.fill_(0.05 * factor)
        other.b_dec.fill_(0.05 * factor)
    other.metadata = dict(sae.metadata)
    return other.eval()


def test_a_dictionary_that_fits_has_no_warning(sae, model, text, capsys):
    found = ms.check(sae, model, text=text, tokens=200)
    assert found.warnings == () and found.scale == 1
    assert found.evaluation.explained_variance > 0.99 and found.evaluation.ce_loss_recovered > 0.9
    printed = capsys.readouterr().out
    assert printed.strip() == found.table() and "explained variance" in printed and "CE loss recovered" in printed


def test_another_scale_is_told_with_the_factor(sae, model, text, capsys):
    found = ms.check(scaled(sae, 64.0), model, text=text, tokens=200)
    assert found.scale >= 16 and found.explained_at_scale > found.evaluation.explained_variance + 0.2
    assert "WARNING: the activations seem to be on another scale" in capsys.readouterr().out


def test_a_dictionary_that_explains_nothing_is_told(sae, model, text, capsys):
    other = ms.JumpReLUSAE(32, 64, decoder_norm="free", seed=0)
    other.metadata = dict(sae.metadata)
    with torch.no_grad():
        other.W_dec.mul_(1000)
        other.threshold.zero_()
    found = ms.check(other.eval(), model, text=text, tokens=200)
    assert found.evaluation.explained_variance < 0
    assert "WARNING: " in capsys.readouterr().out and any("times as long" in w for w in found.warnings)


def test_a_dead_dictionary_is_told(sae, model, text):
    other = scaled(sae, 1.0)
    with torch.no_grad():
        other.b_enc.fill_(-1e4)
    assert "no feature is active on these tokens" in ms.check(other, model, text=text, tokens=100).warnings


def test_a_transcoder_is_checked_at_its_two_hooks(model, text, capsys):
    sae = ms.Transcoder(32, 16, 24, k=4, seed=0)
    found = ms.check(sae.eval(), model, IN, hook_out=OUT, text=text, tokens=100)
    assert f"{IN} → {OUT}" in capsys.readouterr().out and found.evaluation.d_in == 32


def test_a_dictionary_that_does_not_say_its_hook_has_to_be_told(model):
    with pytest.raises(ValueError, match="hook_name: 'sae' does not say which it was trained on"):
        ms.check(ms.TopKSAE(32, 64, k=4), model)


def test_without_a_text_the_shipped_prose_is_read(sae, model, capsys):
    assert 300 <= ms.check(sae, model, tokens=300).evaluation.tokens <= 400
    assert [s.source for s in ms.check(sae, model, tokens=64).evaluation.by_source] == ["en_prose"]
