"""Autoencoders of every kind, which library's files take them (CASES), and which do not, and why (REFUSED)."""

import torch

import monosem as ms
from monosem.data.exports import WRITERS

D, F, K = 8, 24, 4


def randomised(sae, seed=0):
    """Weights and biases of several scales, so that no convention can be left out unnoticed."""
    generator = torch.Generator("cpu").manual_seed(seed)
    with torch.no_grad():
        for name, p in sae.named_parameters():
            scale = 0.6 if p.dim() == 2 else 0.3
            p.copy_(torch.randn(p.shape, generator=generator) * scale)
            if name == "threshold":
                p.abs_()
        if sae.has_unit_rows:
            sae.normalize_decoder()
        for name, buffer in sae.named_buffers():
            if name == "batches.threshold":
                buffer.fill_(0.4)
    sae.changed()
    pair = ["blocks.3.hook_resid_mid", "blocks.3.hook_mlp_out"]
    hook = pair if sae.cfg.kind == "transcoder" else "blocks.3.hook_resid_post"
    sae.metadata = {"model": "tiny", "hook_name": hook, "context": 64}
    return sae.eval()


def transcoder(activation, skip=False, d_out=D):
    settings = {"initial_threshold": 0.1, "bandwidth": 0.05, "l0_coefficient": 1e-3} if activation == "jumprelu" else {}
    return ms.Transcoder(D, d_out, F, K, activation=activation, skip=skip, **settings)


JUMP = {"initial_threshold": 0.1, "bandwidth": 0.05, "l0_coefficient": 1e-3}
MADE = {
    "relu": lambda: ms.ReLUSAE(D, F),
    "relu_free": lambda: ms.ReLUSAE(D, F, decoder_norm="free"),
    "relu_free_centred": lambda: ms.ReLUSAE(D, F, decoder_norm="free", apply_b_dec_to_input=True),
    "topk": lambda: ms.TopKSAE(D, F, K),
    "abs_topk": lambda: ms.AbsTopKSAE(D, F, K),
    "batch_topk": lambda: ms.BatchTopKSAE(D, F, K),
    "jumprelu": lambda: ms.JumpReLUSAE(D, F, **JUMP),
    "jumprelu_free": lambda: ms.JumpReLUSAE(D, F, decoder_norm="free", **JUMP),
    "gated": lambda: ms.GatedSAE(D, F),
    "group_max": lambda: ms.GroupMaxSAE(D, F, K),
    "hierarchical_topk": lambda: ms.HierarchicalTopKSAE(D, F, K),
    "matryoshka": lambda: ms.MatryoshkaSAE(D, F, prefixes=(6, 12, F), k=K),
    "matryoshka_topk": lambda: ms.MatryoshkaSAE(D, F, prefixes=(6, 12, F), k=K, activation="topk"),
    "transcoder_relu": lambda: transcoder("relu"),
    "transcoder_relu_wide": lambda: transcoder("relu", d_out=D + 3),
    "transcoder_topk": lambda: transcoder("topk"),
    "transcoder_jumprelu": lambda: transcoder("jumprelu"),
    "transcoder_batch_topk_skip": lambda: transcoder("batch_topk", skip=True),
}
# What each library has no form of, and why.
REFUSED = {
    "sae_lens": {"group_max": "activation 'group_max'", "transcoder_topk": "transcoder of 'topk'"},
    "sparsify": dict.fromkeys(MADE, "but topk and group_max"),
    "dictionary_learning": dict.fromkeys(("abs_topk", "group_max"), "activation")
    | dict.fromkeys((n for n in MADE if n.startswith("transcoder")), "transcoders"),
    "circuit_tracer": dict.fromkeys((n for n in MADE if not n.startswith("transcoder")), "dictionaries but transcoders")
    | {"transcoder_relu_wide": "output of another width"},
}
for _name in ("topk", "group_max", "hierarchical_topk", "matryoshka_topk", "transcoder_topk"):
    del REFUSED["sparsify"][_name]
CASES = [(form, name) for form in WRITERS for name in MADE if name not in REFUSED[form]]


def batch(n=20):
    return torch.randn(n, D, generator=torch.Generator("cpu").manual_seed(7)) * 1.5
