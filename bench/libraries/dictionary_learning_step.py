"""dictionary_learning: ``TopKTrainer.update`` and ``StandardTrainer.update`` (L1)."""

import sys
import types
from contextlib import nullcontext

import torch

# nnsight, which the package pins to versions that ask for another PyTorch, serves its activation buffer only.
if "nnsight" not in sys.modules:
    sys.modules["nnsight"] = types.ModuleType("nnsight")
    sys.modules["nnsight"].LanguageModel = object

from dictionary_learning.trainers.standard import StandardTrainer
from dictionary_learning.trainers.top_k import TopKTrainer


class DictionaryLearning:
    packages = ["dictionary-learning"]

    def __init__(self, job: dict, weights: dict) -> None:
        common = dict(
            steps=10**9,
            activation_dim=job["d"],
            dict_size=job["f"],
            layer=0,
            lm_name="none",
            lr=job["lr"],
            warmup_steps=0,
            device=job.get("device", "cpu"),
        )
        if job["kind"] == "topk":
            self.notes = ["clips the gradient's norm at 1; squared error summed over D, which Adam divides out"]
            self.trainer = TopKTrainer(k=job["k"], **common)
        else:
            self.notes = ["squared error summed over D, which Adam divides out"]
            # Its squared error is a sum over D where ours is a mean: the same objective needs λ·D.
            self.trainer = StandardTrainer(l1_penalty=job["l1"] * job["d"], sparsity_warmup_steps=None, **common)
        ae = self.trainer.ae
        with torch.no_grad():
            ae.encoder.weight.copy_(weights["W_enc"])
            ae.encoder.bias.copy_(weights["b_enc"])
            ae.decoder.weight.copy_(weights["W_dec"].T)
            (ae.b_dec if job["kind"] == "topk" else ae.bias).copy_(weights["b_dec"])
        self.l1 = job["l1"] if job["kind"] == "relu" else 0.0
        self.bf16, self.count, self.device = job["precision"] == "bf16", 0, torch.device(job.get("device", "cpu"))

    def step(self, x):
        self.count += 1  # never 0: there it would set the decoder bias to the data's geometric median
        with torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext():  # as trainSAE does
            return self.trainer.update(self.count, x)

    @torch.no_grad()
    def evaluate(self, x):
        x_hat, code = self.trainer.ae(x, output_features=True)
        mse = (x_hat - x).square().mean()
        return {"mse": mse, "l0": (code > 0).sum() / len(x), "objective": mse + self.l1 * code.sum(-1).mean()}


def build(job: dict, weights: dict) -> DictionaryLearning:
    return DictionaryLearning(job, weights)
