"""The interface that SAELens' users and SAEBench expect: dense activations, weights and names."""

import dataclasses
import json

import pytest
import torch

import monosem as ms

D, F, K = 6, 20, 3
KINDS = {
    "topk": lambda: ms.TopKSAE(D, F, K, seed=0),
    "batch_topk": lambda: ms.BatchTopKSAE(D, F, K, seed=0),
    "relu_free": lambda: ms.ReLUSAE(D, F, decoder_norm="free", seed=0),
    "jumprelu_free": lambda: ms.JumpReLUSAE(
        D, F, decoder_norm="free", initial_threshold=0.1, bandwidth=0.1, l0_coefficient=1e-3, seed=0
    ),
    "gated": lambda: ms.GatedSAE(D, F, seed=0),
}


def batch(*shape):
    return torch.randn(*shape, D, generator=torch.Generator("cpu").manual_seed(1))


def made(kind):
    sae = KINDS[kind]()
    with torch.no_grad():
        if not sae.has_unit_rows:
            sae.W_dec.mul_(torch.logspace(-1, 1, F)[:, None])
        sae.b_dec.copy_(batch(1)[0])
    sae.metadata = {"model": "pythia-70m", "hook_name": "blocks.3.hook_resid_post", "context": 128}
    return sae.eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit_rows", [False, True])
def test_encode_and_decode_are_dense_and_those_of_the_autoencoder(kind, unit_rows):
    sae = made(kind)
    dense = sae.dense(unit_rows)
    for x in (batch(7), batch(2, 3)):
        f = dense.encode(x)
        assert f.shape == (*x.shape[:-1], F) and type(f) is torch.Tensor
        assert torch.equal(f != 0, sae.encode(x).to_dense() != 0)
        torch.testing.assert_close(dense.decode(f), sae(x))
        torch.testing.assert_close(dense(x), sae(x))
        torch.testing.assert_close(f @ dense.W_dec + dense.b_dec, sae(x))
        changed = f.clone()
        changed[..., 2] += 1  # as a tool that steers does
        torch.testing.assert_close(
            dense.decode(changed) - dense.decode(f), dense.W_dec[2].expand_as(x), atol=1e-5, rtol=0
        )
    assert dense.W_enc.shape == (D, F) and dense.W_dec.shape == (F, D)
    if unit_rows:
        torch.testing.assert_close(dense.W_dec.norm(dim=1), torch.ones(F))
    if kind == "relu_free":
        torch.testing.assert_close(dense.encode(batch(7)), (batch(7) @ dense.W_enc + dense.b_enc).relu())


def test_names_and_places():
    cfg = made("topk").dense().cfg
    assert (cfg.model_name, cfg.hook_name, cfg.hook_layer) == ("pythia-70m", "blocks.3.hook_resid_post", 3)
    assert (cfg.d_in, cfg.d_sae, cfg.architecture, cfg.context_size) == (D, F, "topk", 128)
    assert (cfg.dtype, cfg.device, cfg.apply_b_dec_to_input) == ("float32", "cpu", True)
    assert cfg.activation_fn_kwargs == {"k": K} and cfg.metadata.hook_name == cfg.hook_name
    assert cfg.metadata.exclude_special_tokens is None and cfg.metadata.get("prepend_bos") is True
    cfg.architecture_str = "topk"  # SAEBench adds attributes of its own
    record = json.loads(json.dumps(cfg.to_dict()))
    assert record["hook_layer"] == 3 and "metadata" not in record and dataclasses.asdict(cfg) == cfg.to_dict()


def test_weights_are_shared_and_move_together():
    sae = made("relu_free")
    dense = sae.dense(unit_rows=True)
    assert dense.b_dec is sae.b_dec and dense.sae is sae
    dense.to(torch.float64)
    assert dense.cfg.dtype == "float64"
    assert dense.dtype == torch.float64 and dense.W_dec.dtype == torch.float64 and dense.norms.dtype == torch.float64
    torch.testing.assert_close(dense.decode(dense.encode(batch(4))), dense(batch(4)))


def test_a_transcoder_is_refused():
    with pytest.raises(
        ValueError, match=r"dense: got Transcoder .*; wanted an autoencoder that reconstructs its input"
    ):
        ms.Transcoder(D, D, F, K).dense()
