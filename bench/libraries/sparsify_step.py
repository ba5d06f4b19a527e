"""EleutherAI's sparsify: ``SparseCoder`` with its own gradient projection and decoder norm; TopK only.

Variant ``accelerated``: on the operations of monosem.
"""

import os
from contextlib import nullcontext

import torch

if not torch.cuda.is_available():  # its kernels are for GPUs; on a CPU it decodes by embedding_bag
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"

from sparsify import SaeConfig, SparseCoder


class Sparsify:
    packages = ["eai-sparsify"]
    notes = [
        "PyTorch's fused Adam in place of its own choice of optimizers (SignSGD without a schedule by default)",
        "a chosen activation of 0 still sends a gradient to the encoder; fraction of variance unexplained as the loss",
    ]

    def __init__(self, job: dict, weights: dict) -> None:
        self.bf16, self.device = job["precision"] == "bf16", torch.device(job.get("device", "cpu"))
        config = SaeConfig(num_latents=job["f"], k=job["k"])
        self.coder = SparseCoder(job["d"], config, device=self.device, dtype=torch.float32)
        with torch.no_grad():
            self.coder.encoder.weight.copy_(weights["W_enc"])
            self.coder.encoder.bias.copy_(weights["b_enc"])
            self.coder.W_dec.copy_(weights["W_dec"])
            self.coder.b_dec.copy_(weights["b_dec"])
        if job["variant"] == "accelerated":
            import monosem

            self.coder = monosem.accelerate(self.coder)
        self.adam = torch.optim.Adam(self.coder.parameters(), lr=job["lr"], fused=True)

    def step(self, x):
        self.coder.set_decoder_norm_to_unit_norm()
        with torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext():
            out = self.coder(x)
        (out.fvu + out.auxk_loss / 32).backward()
        self.coder.remove_gradient_parallel_to_decoder_directions()
        self.adam.step()
        self.adam.zero_grad()
        return out.fvu.item()

    @torch.no_grad()
    def evaluate(self, x):
        self.coder.set_decoder_norm_to_unit_norm()  # its loop does it before a step, not after
        out = self.coder(x)
        mse = (out.sae_out - x).square().mean()
        return {"mse": mse, "l0": (out.latent_acts > 0).sum() / len(x), "objective": mse}


def build(job: dict, weights: dict) -> Sparsify:
    return Sparsify(job, weights)
