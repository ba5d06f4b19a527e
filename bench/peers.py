"""One training step of each peer, through its public API, with the same data and initial weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

import monosem as ms
from monosem.train.step import FastStep

Step = Callable[[Tensor], float]
LR = 3e-4


def start(d: int, f: int) -> tuple[Tensor, Tensor]:
    """Initial encoder and decoder rows [f, d]: unit, equal, the same for all."""
    w = torch.nn.functional.normalize(torch.randn(f, d, generator=torch.Generator().manual_seed(0)), dim=-1)
    return w.clone(), w


def monosem(d: int, f: int, k: int, bf16: bool) -> Step:
    """monosem's fast step. It has one precision, the best of the processor; ``bf16`` changes nothing."""
    sae = ms.TopKSAE(d, f, k)
    with torch.no_grad():
        for p, w in zip((sae.W_enc_rows, sae.W_dec), start(d, f), strict=True):
            p.copy_(w)
    step = FastStep(sae)
    return lambda x: float(step(x, LR).mse)


def dense(d: int, f: int, k: int, bf16: bool) -> Step:
    """Thirty lines of plain PyTorch: dense products, topk, scatter, fused Adam, unit-norm decoder."""
    w_enc, w_dec = (torch.nn.Parameter(w) for w in start(d, f))
    b_enc, b_dec = (torch.nn.Parameter(torch.zeros(n)) for n in (f, d))
    adam = torch.optim.Adam([w_enc, w_dec, b_enc, b_dec], lr=LR, fused=True)

    def step(x: Tensor) -> float:
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            values, indices = torch.nn.functional.linear(x - b_dec, w_enc, b_enc).topk(k, sorted=False)
            code = values.new_zeros(len(x), f).scatter(1, indices, values.relu())
            x_hat = code @ w_dec + b_dec
        loss = (x_hat.float() - x).square().mean()
        adam.zero_grad()
        loss.backward()
        with torch.no_grad():
            w_dec.grad.sub_((w_dec.grad * w_dec).sum(-1, keepdim=True) * w_dec)
            adam.step()
            w_dec.div_(w_dec.norm(dim=-1, keepdim=True))
        return loss.item()

    return step


def sparsify(d: int, f: int, k: int, bf16: bool) -> Step:
    """EleutherAI's SparseCoder with its own gradient projection and decoder norm, and Adam."""
    os.environ.setdefault(
        "SPARSIFY_DISABLE_TRITON", "1"
    )  # its kernels are for GPUs; on a CPU it decodes by embedding_bag
    from sparsify import SaeConfig, SparseCoder

    coder = SparseCoder(d, SaeConfig(num_latents=f, k=k), dtype=torch.float32)
    with torch.no_grad():
        for p, w in zip((coder.encoder.weight, coder.W_dec), start(d, f), strict=True):
            p.copy_(w)
    adam = torch.optim.Adam(coder.parameters(), lr=LR, fused=True)

    def step(x: Tensor) -> float:
        coder.set_decoder_norm_to_unit_norm()
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            out = coder(x)
        loss = (out.sae_out.float() - x).square().mean()
        loss.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        adam.step()
        adam.zero_grad()
        return loss.item()

    return step


PEERS: dict[str, Callable[[int, int, int, bool], Step]] = {"monosem": monosem, "dense": dense, "sparsify": sparsify}
