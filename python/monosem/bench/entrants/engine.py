"""monosem's training step, as a user calls it: ``Trainer.step``.

Variants: ``topk`` trains TopK with the same K instead of the kind that is asked for; ``clip`` clips the gradient where
libraries do that sum the squared error over D: at a norm of 1 of D times our loss.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import monosem as ms
from monosem.nn import config, registry


class Engine:
    """One precision: what the processor does best (``monosem doctor``); ``job["precision"]`` changes nothing."""

    packages = []

    def __init__(self, job: dict[str, Any], weights: dict[str, Tensor]) -> None:
        if job["variant"] == "topk":
            architecture = registry.configure("topk", job["d"], job["f"], k=job["k"])
        else:
            architecture = config.from_dict(registry.find(job["kind"]).Config, job["settings"])
        self.sae = registry.build(architecture, device=job.get("device", "cpu"))
        self.start(weights)
        training = ms.TrainConfig(
            lr=job["lr"],
            batch_size=job["n"],
            steps=10**6,
            lr_warmup=0,
            lr_decay=0,
            sparsity_warmup=0,
            dead_after=10**12,
            init_bias=False,
            clip=1 / job["d"] if job["variant"] == "clip" else None,
        )
        self.trainer = ms.Trainer(self.sae, training, progress=False)

    @torch.no_grad()
    def start(self, weights: dict[str, Tensor]) -> None:
        self.sae.W_enc_rows.copy_(weights["W_enc"])
        self.sae.W_dec.copy_(weights["W_dec"])
        self.sae.b_dec.copy_(weights["b_dec"])
        # b_enc is the bias at which K features of a token fire on average. A threshold takes its place.
        threshold = dict(self.sae.named_parameters()).get("threshold")
        if threshold is None:
            self.sae.b_enc.copy_(weights["b_enc"])
        else:
            self.sae.b_enc.zero_()
            threshold.copy_(-weights["b_enc"])

    def step(self, x: Tensor) -> float:
        metrics = self.trainer.step(x)
        assert isinstance(metrics, dict)  # of one autoencoder
        return float(metrics["loss"])

    @torch.no_grad()
    def evaluate(self, x: Tensor) -> dict[str, float]:
        self.sae.eval()  # a batch that is not trained on leaves no trace in a running threshold
        out = self.sae.loss(x)
        self.sae.train()
        return {"mse": float(out.mse), "l0": float(out.code.l0()), "objective": float(out.loss)}


def build(job: dict[str, Any], weights: dict[str, Tensor]) -> Engine:
    return Engine(job, weights)
