"""monosem's training step, as a user calls it: ``Trainer.step``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import monosem as ms
from monosem.nn import registry


class Engine:
    """One precision: what the processor does best (``monosem doctor``); ``job["precision"]`` changes nothing."""

    packages = []

    def __init__(self, job: dict[str, Any], weights: dict[str, Tensor]) -> None:
        device = job.get("device", "cpu")
        config = registry.configure(job["kind"], job["d"], job["f"], k=job["k"], l1_coefficient=job["l1"])
        self.sae = registry.build(config, device=device)
        with torch.no_grad():
            self.sae.W_enc_rows.copy_(weights["W_enc"])
            self.sae.W_dec.copy_(weights["W_dec"])
            self.sae.b_enc.copy_(weights["b_enc"])
            self.sae.b_dec.copy_(weights["b_dec"])
        config = ms.TrainConfig(
            lr=job["lr"],
            batch_size=job["n"],
            steps=10**6,
            lr_warmup=0,
            lr_decay=0,
            sparsity_warmup=0,
            dead_after=10**12,
            init_bias=False,
        )
        self.trainer = ms.Trainer(self.sae, config, progress=False)

    def step(self, x: Tensor) -> float:
        metrics = self.trainer.step(x)
        assert isinstance(metrics, dict)  # of one autoencoder
        return float(metrics["loss"])

    @torch.no_grad()
    def evaluate(self, x: Tensor) -> dict[str, float]:
        out = self.sae.loss(x)  # the decoder's rows are unit, so that the objective needs no norms
        return {"mse": float(out.mse), "l0": float(out.code.l0()), "objective": float(out.loss)}


def build(job: dict[str, Any], weights: dict[str, Tensor]) -> Engine:
    return Engine(job, weights)
