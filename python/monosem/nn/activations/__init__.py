"""Activations: which features are active, and with what value; one short file per family."""

from monosem.nn.activations.base import Activation, Vectors
from monosem.nn.activations.batch_topk import BatchThreshold, BatchTopK
from monosem.nn.activations.gated import Gated
from monosem.nn.activations.group_max import GroupMax
from monosem.nn.activations.jumprelu import JumpReLU
from monosem.nn.activations.relu import ReLU
from monosem.nn.activations.topk import AbsTopK, TopK

__all__ = [
    "AbsTopK",
    "Activation",
    "BatchThreshold",
    "BatchTopK",
    "Gated",
    "GroupMax",
    "JumpReLU",
    "ReLU",
    "TopK",
    "Vectors",
]
