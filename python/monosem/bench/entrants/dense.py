"""The same step in plain PyTorch: dense products, fused Adam, unit decoder rows; eager or compiled."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear


def _topk(pre: Tensor, k: int) -> Tensor:
    values, indices = pre.topk(k, sorted=False)
    return torch.zeros_like(pre).scatter(1, indices, values.relu())


def _relu(pre: Tensor, k: int) -> Tensor:
    return pre.relu()


# The kinds that are written in plain PyTorch: the activation, and whether the loss has an L1 penalty.
KINDS = {"topk": (_topk, False), "relu": (_relu, True)}


def trains(kind: str, settings: dict[str, Any]) -> bool:
    """Whether a kind with these settings is written in plain PyTorch."""
    return kind in KINDS and settings.get("decoder_norm", "unit") == "unit"


class Dense:
    """A training step written without a library. ``job["variant"]`` is ``"eager"`` or ``"compiled"``."""

    packages = []
    notes = []

    def __init__(self, job: dict[str, Any], weights: dict[str, Tensor]) -> None:
        if not trains(job["kind"], job["settings"]):
            raise ValueError(
                f"kind: got {job['kind']!r} with {job['settings']}; plain PyTorch is written for "
                f"{' and '.join(KINDS)} with unit decoder rows here. Give --no-dense."
            )
        self.activation, has_penalty = KINDS[job["kind"]]
        self.l1 = job["l1"] if has_penalty else 0.0
        self.job, self.device = job, torch.device(job.get("device", "cpu"))
        self.w_enc, self.w_dec, self.b_enc, self.b_dec = (
            torch.nn.Parameter(weights[name].to(self.device, copy=True))
            for name in ("W_enc", "W_dec", "b_enc", "b_dec")
        )
        parameters = [self.w_enc, self.w_dec, self.b_enc, self.b_dec]
        self.adam = torch.optim.Adam(parameters, lr=job["lr"], fused=True)
        self._loss, self._project, self._normalize = self.loss, self.project, self.normalize
        if job["variant"] == "compiled":
            self._loss = torch.compile(self.loss, dynamic=False)
            self._project = torch.compile(self.project, dynamic=False)
            self._normalize = torch.compile(self.normalize, dynamic=False)

    def code(self, x: Tensor) -> Tensor:
        """Activations [N, F]."""
        return self.activation(linear(x - self.b_dec, self.w_enc, self.b_enc), self.job["k"])

    def loss(self, x: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16) if self.job["precision"] == "bf16" else nullcontext():
            code = self.code(x)
            x_hat = code @ self.w_dec + self.b_dec
        loss = (x_hat.float() - x).square().mean()
        return loss + self.l1 * code.float().sum(-1).mean() if self.l1 else loss

    def project(self, g: Tensor, w: Tensor) -> None:
        g.sub_((g * w).sum(-1, keepdim=True) * w)

    def normalize(self, w: Tensor) -> None:
        w.div_(w.norm(dim=-1, keepdim=True))

    def step(self, x: Tensor) -> float:
        loss = self._loss(x)
        self.adam.zero_grad()
        loss.backward()
        with torch.no_grad():
            assert self.w_dec.grad is not None
            self._project(self.w_dec.grad, self.w_dec)
            self.adam.step()
            self._normalize(self.w_dec)
        return loss.item()

    @torch.no_grad()
    def evaluate(self, x: Tensor) -> dict[str, float]:
        code = self.code(x)
        mse = (code @ self.w_dec + self.b_dec - x).square().mean()
        penalty = self.l1 * code.sum(-1).mean() if self.l1 else 0.0
        return {"mse": float(mse), "l0": float((code > 0).sum() / len(x)), "objective": float(mse + penalty)}


def build(job: dict[str, Any], weights: dict[str, Tensor]) -> Dense:
    return Dense(job, weights)
