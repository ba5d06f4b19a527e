"""SAELens: ``SAETrainer.step``, as its ``fit`` calls it.

Variants (TopK): ``dense``, its default, and ``sparse``, its ``use_sparse_activations``.
"""

import os

os.environ["WANDB_MODE"], os.environ["HF_HUB_OFFLINE"] = "disabled", "1"

import torch  # noqa: E402
from sae_lens import (  # noqa: E402
    LoggingConfig,
    SAETrainer,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from sae_lens.config import SAETrainerConfig  # noqa: E402


class SaeLens:
    packages = ["sae-lens"]

    def __init__(self, job: dict, weights: dict) -> None:
        device = job.get("device", "cpu")
        self.notes = [
            "clips the gradient's norm at 1; squared error summed over D, which Adam divides out",
            "decoder rows are not made unit: "
            + (
                "activations are scaled by their norms"
                if job["kind"] == "topk"
                else "the L1 penalty is weighted by them"
            ),
        ]
        common = dict(
            d_in=job["d"],
            d_sae=job["f"],
            device=device,
            dtype="float32",
            normalize_activations="none",
            apply_b_dec_to_input=True,
        )
        if job["kind"] == "relu":
            # Its squared error is a sum over D where ours is a mean: the same objective needs λ·D.
            sae = StandardTrainingSAE(StandardTrainingSAEConfig(l1_coefficient=job["l1"] * job["d"], **common))
        elif job["variant"] == "sparse":
            config = TopKTrainingSAEConfig(
                k=job["k"], use_sparse_activations=True, rescale_acts_by_decoder_norm=False, **common
            )
            sae = TopKTrainingSAE(config)
            self.notes[1] = (
                "decoder rows are not made unit, and nothing makes up for it (on a CPU its sparse path fails otherwise)"
            )
        else:
            sae = TopKTrainingSAE(TopKTrainingSAEConfig(k=job["k"], **common))
        with torch.no_grad():
            sae.W_enc.copy_(weights["W_enc"].T)
            sae.W_dec.copy_(weights["W_dec"])
            sae.b_enc.copy_(weights["b_enc"])
            sae.b_dec.copy_(weights["b_dec"])
        config = SAETrainerConfig(
            total_training_samples=10**12,
            train_batch_size_samples=job["n"],
            device=device,
            lr=job["lr"],
            lr_end=job["lr"],
            autocast=job["precision"] == "bf16",
            logger=LoggingConfig(log_to_wandb=False),
        )
        self.l1 = job["l1"] if job["kind"] == "relu" else 0.0
        self.sae, self.trainer = sae, SAETrainer(cfg=config, sae=sae, data_provider=iter(()))

    def step(self, x):
        out = self.trainer.step(x)
        self.trainer.n_training_steps += 1  # as fit does after each step
        return out.loss.item()

    @torch.no_grad()
    def evaluate(self, x):
        code = self.sae.encode(x)
        mse = (self.sae.decode(code) - x).square().mean()
        code = code.to_dense() if code.is_sparse else code
        penalty = self.l1 * (code * self.sae.W_dec.norm(dim=-1)).sum(-1).mean()
        return {"mse": mse, "l0": (code > 0).sum() / len(x), "objective": mse + penalty}


def build(job: dict, weights: dict) -> SaeLens:
    return SaeLens(job, weights)
