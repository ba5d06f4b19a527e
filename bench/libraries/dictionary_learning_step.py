"""dictionary_learning: ``update`` of the trainer of each kind, as ``trainSAE`` calls it.

Variant ``accelerated``: with its autoencoder on the operations of monosem.
"""

import itertools
import sys
import types
from contextlib import nullcontext
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parent))
# nnsight, which the package pins to versions that ask for another PyTorch, serves its activation buffer only.
if "nnsight" not in sys.modules:
    sys.modules["nnsight"] = types.ModuleType("nnsight")
    sys.modules["nnsight"].LanguageModel = object

from definition import figures
from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.gdm import GatedSAETrainer
from dictionary_learning.trainers.jumprelu import JumpReluTrainer
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
from dictionary_learning.trainers.standard import StandardTrainer, StandardTrainerAprilUpdate
from dictionary_learning.trainers.top_k import TopKTrainer

CLIPS = "clips the gradient's norm at 1; squared error summed over D, which Adam divides out"
SUM = "squared error summed over D, which Adam divides out"
BETAS = (0.9, 0.999)  # of all libraries here; its JumpReLU and Gated trainers have (0, 0.999), at the same cost


def topk(job: dict, common: dict):
    return TopKTrainer(k=job["k"], **common), [CLIPS]


def relu(job: dict, common: dict):
    penalty = dict(l1_penalty=_summed(job, "l1_coefficient"), sparsity_warmup_steps=None)
    if job["settings"].get("decoder_norm") != "free":
        return StandardTrainer(**penalty, **common), [SUM]
    return StandardTrainerAprilUpdate(**penalty, **common), [
        CLIPS,
        "takes the decoder's bias off before encoding, which Anthropic's April 2024 update does not",
    ]


def batch_topk(job: dict, common: dict):
    # Its running threshold would begin after 1,000 steps; here each step has the cost of most of a run's.
    return BatchTopKTrainer(k=job["k"], threshold_start_step=0, **common), [CLIPS]


def matryoshka(job: dict, common: dict):
    ends = [0, *job["settings"]["prefixes"]]
    shares = [(after - before) / job["f"] for before, after in itertools.pairwise(ends)]
    trainer = MatryoshkaBatchTopKTrainer(k=job["k"], group_fractions=shares, threshold_start_step=0, **common)
    if trainer.group_sizes != [round(share * job["f"]) for share in shares]:
        raise ValueError(f"prefixes: got {ends[1:]}; wanted some that its shares of {job['f']} features give back")
    return trainer, [CLIPS]


def jumprelu(job: dict, common: dict):
    settings = job["settings"]
    target, scale = settings.get("target_l0"), _summed(job, "l0_coefficient")
    notes = [
        CLIPS,
        "no pre-encoder bias; Adam's betas are (0.9, 0.999) as those of the others, by default (0, 0.999)",
        "its L0 penalty has a slope in the upper half of the band only: it is taken of what the threshold left over",
    ]
    if target is None:  # it has no penalty that is linear in L0
        target, scale = job["k"], scale * job["k"]
        notes.append("its penalty is λ·K·(L0/K − 1)², the slope of λ·L0 at L0 = 1.5·K and none at K")
    trainer = JumpReluTrainer(
        bandwidth=settings["bandwidth"],
        sparsity_penalty=scale,
        target_l0=target,
        sparsity_warmup_steps=None,
        **common,
    )
    return trainer, notes


def gated(job: dict, common: dict):
    trainer = GatedSAETrainer(l1_penalty=_summed(job, "l1_coefficient"), sparsity_warmup_steps=None, **common)
    return trainer, [SUM, "Adam's betas are (0.9, 0.999) as those of the others, by default (0, 0.999)"]


def _summed(job: dict, name: str) -> float:
    """A coefficient for a squared error that is a sum over D where ours is a mean: the same objective needs λ·D."""
    return job["settings"][name] * job["d"]


KINDS = {kind.__name__: kind for kind in (topk, relu, batch_topk, jumprelu, gated, matryoshka)}


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
        self.trainer, self.notes = KINDS[job["kind"]](job, common)
        for group in self.trainer.optimizer.param_groups:
            group["betas"] = BETAS
        _start(self.trainer.ae, weights)
        if job["variant"] == "accelerated":
            import monosem

            self.trainer.ae = monosem.accelerate(self.trainer.ae)
        self.settings = job["settings"]
        self.bf16, self.count, self.device = job["precision"] == "bf16", 0, torch.device(job.get("device", "cpu"))

    def step(self, x):
        self.count += 1  # never 0: there it would set the decoder bias to the data's geometric median
        with torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext():  # as trainSAE does
            return self.trainer.update(self.count, x)

    @torch.no_grad()
    def evaluate(self, x):
        ae, gate = self.trainer.ae, None
        if hasattr(ae, "gate_bias"):
            code, gate = ae.encode(x, return_gate=True)
        elif hasattr(ae, "threshold") and hasattr(ae, "k"):
            code = ae.encode(x, use_threshold=False)  # the choice of a batch, as in training
        else:
            code = ae.encode(x)
        w_dec = ae.decoder.weight.T if hasattr(ae, "decoder") else ae.W_dec
        return figures(x, code, w_dec, _decoder_bias(ae), self.settings, gate)


@torch.no_grad()
def _start(ae, weights: dict) -> None:
    """Begin from the given weights, which each kind keeps under names of its own."""
    if hasattr(ae, "decoder"):
        ae.encoder.weight.copy_(weights["W_enc"])
        ae.decoder.weight.copy_(weights["W_dec"].T)
    else:
        ae.W_enc.copy_(weights["W_enc"].T)
        ae.W_dec.copy_(weights["W_dec"])
    _decoder_bias(ae).copy_(weights["b_dec"])
    # b_enc is the bias at which K features of a token fire on average. A threshold takes its place.
    if isinstance(getattr(ae, "threshold", None), torch.nn.Parameter):
        ae.threshold.copy_(-weights["b_enc"])
    elif hasattr(ae, "gate_bias"):
        ae.gate_bias.copy_(weights["b_enc"])
    elif hasattr(ae, "b_enc"):
        ae.b_enc.copy_(weights["b_enc"])
    else:
        ae.encoder.bias.copy_(weights["b_enc"])


def _decoder_bias(ae) -> torch.Tensor:
    return next(getattr(ae, name) for name in ("b_dec", "decoder_bias", "bias") if hasattr(ae, name))


def build(job: dict, weights: dict) -> DictionaryLearning:
    return DictionaryLearning(job, weights)
