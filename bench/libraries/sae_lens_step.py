"""SAELens: ``SAETrainer.step``, as its ``fit`` calls it.

Variants (TopK): ``dense``, its default, and ``sparse``, its ``use_sparse_activations``. ``accelerated``: its default on
the operations of monosem.
"""

import os
import sys
from pathlib import Path

os.environ["WANDB_MODE"], os.environ["HF_HUB_OFFLINE"] = "disabled", "1"
sys.path.append(str(Path(__file__).resolve().parent))

import torch  # noqa: E402
from definition import figures  # noqa: E402
from sae_lens import (  # noqa: E402
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    GatedTrainingSAE,
    GatedTrainingSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    LoggingConfig,
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
    SAETrainer,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from sae_lens.config import SAETrainerConfig  # noqa: E402

SUM = "clips the gradient's norm at 1; squared error summed over D, which Adam divides out"
SCALED = "decoder rows are not made unit: activations are scaled by their norms"
WEIGHTED = "decoder rows are not made unit: the L1 penalty is weighted by them"


def relu(job: dict, common: dict):
    return StandardTrainingSAE(StandardTrainingSAEConfig(l1_coefficient=_summed(job, "l1_coefficient"), **common)), [
        WEIGHTED
    ]


def topk(job: dict, common: dict):
    if job["variant"] != "sparse":
        return TopKTrainingSAE(TopKTrainingSAEConfig(k=job["k"], **common)), [SCALED]
    config = TopKTrainingSAEConfig(
        k=job["k"], use_sparse_activations=True, rescale_acts_by_decoder_norm=False, **common
    )
    return TopKTrainingSAE(config), [
        "decoder rows are not made unit, and nothing makes up for it (on a CPU its sparse path fails otherwise)"
    ]


def batch_topk(job: dict, common: dict):
    return BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(k=job["k"], **common)), [SCALED]


def matryoshka(job: dict, common: dict):
    config = MatryoshkaBatchTopKTrainingSAEConfig(
        k=job["k"], matryoshka_widths=list(job["settings"]["prefixes"]), **common
    )
    return MatryoshkaBatchTopKTrainingSAE(config), [
        SCALED,
        "errors of the prefixes are added up where ours is their mean, which Adam divides out; it decodes the whole "
        "code, and then its prefixes once more",
    ]


def jumprelu(job: dict, common: dict):
    settings, notes = job["settings"], ["decoder rows are not made unit, and nothing makes up for it"]
    target, coefficient = settings.get("target_l0"), _summed(job, "l0_coefficient")
    penalty = dict(jumprelu_sparsity_loss_mode="step", l0_coefficient=coefficient)
    if target is not None:
        notes.append("(L0/target − 1)² is of each token, where ours is of the mean L0: it presses on its variance too")
        # Its mode is λ · 2/target · (L0 − target)².
        penalty = dict(
            jumprelu_sparsity_loss_mode="quadratic", l0_coefficient=coefficient / (2 * target), target_l0=target
        )
    config = JumpReLUTrainingSAEConfig(jumprelu_bandwidth=settings["bandwidth"], **penalty, **common)
    return JumpReLUTrainingSAE(config), notes


def gated(job: dict, common: dict):
    return GatedTrainingSAE(GatedTrainingSAEConfig(l1_coefficient=_summed(job, "l1_coefficient"), **common)), [
        WEIGHTED,
        "the gate's reconstruction moves the decoder too, which the paper and we freeze there; it multiplies by the "
        "encoder three times",
    ]


def _summed(job: dict, name: str) -> float:
    """A coefficient for a squared error that is a sum over D where ours is a mean: the same objective needs λ·D."""
    return job["settings"][name] * job["d"]


KINDS = {kind.__name__: kind for kind in (topk, relu, batch_topk, jumprelu, gated, matryoshka)}


class SaeLens:
    packages = ["sae-lens"]

    def __init__(self, job: dict, weights: dict) -> None:
        device = job.get("device", "cpu")
        common = dict(
            d_in=job["d"],
            d_sae=job["f"],
            device=device,
            dtype="float32",
            normalize_activations="none",
            # With free norms Anthropic's recipes, and ours, take no bias off the input.
            apply_b_dec_to_input=job["settings"].get("decoder_norm") != "free",
        )
        sae, notes = KINDS[job["kind"]](job, common)
        if job["variant"] == "accelerated":
            import monosem

            sae = monosem.accelerate(sae)
        self.notes, self.settings = [SUM, *notes], job["settings"]
        with torch.no_grad():
            sae.W_enc.copy_(weights["W_enc"].T)
            sae.W_dec.copy_(weights["W_dec"])
            sae.b_dec.copy_(weights["b_dec"])
            # b_enc is the bias at which K features of a token fire on average. A threshold takes its place.
            if job["kind"] == "jumprelu":
                sae.threshold.copy_(-weights["b_enc"])
            else:
                (sae.b_gate if job["kind"] == "gated" else sae.b_enc).copy_(weights["b_enc"])
        config = SAETrainerConfig(
            total_training_samples=10**12,
            train_batch_size_samples=job["n"],
            device=device,
            lr=job["lr"],
            lr_end=job["lr"],
            autocast=job["precision"] == "bf16",
            logger=LoggingConfig(log_to_wandb=False),
        )
        self.sae, self.trainer = sae, SAETrainer(cfg=config, sae=sae, data_provider=iter(()))

    def step(self, x):
        out = self.trainer.step(x)
        self.trainer.n_training_steps += 1  # as fit does after each step
        return out.loss.item()

    @torch.no_grad()
    def evaluate(self, x):
        sae = self.sae
        code = sae.encode(x)
        code = code.to_dense() if code.is_sparse else code
        if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
            code = code / sae.W_dec.norm(dim=-1)  # as its decode does
        gate = None
        if hasattr(sae, "b_gate"):
            gate = (sae.process_sae_in(x) @ sae.W_enc + sae.b_gate).relu()
        return figures(x, code, sae.W_dec, sae.b_dec, self.settings, gate)


def build(job: dict, weights: dict) -> SaeLens:
    return SaeLens(job, weights)
