"""Parameters and algebra: one short file per kind of autoencoder."""

from monosem.nn.base import SAE, LossOutput
from monosem.nn.config import ReLUConfig, SAEConfig, TopKConfig
from monosem.nn.dense import DenseBlocks, DenseRows
from monosem.nn.geometric_median import geometric_median
from monosem.nn.gradients import Gradients, RowFactors
from monosem.nn.relu import ReLUSAE
from monosem.nn.topk import TopKSAE

KINDS: dict[str, type[SAE]] = {"topk": TopKSAE, "relu": ReLUSAE}

__all__ = [
    "KINDS",
    "SAE",
    "DenseBlocks",
    "DenseRows",
    "Gradients",
    "LossOutput",
    "ReLUConfig",
    "ReLUSAE",
    "RowFactors",
    "SAEConfig",
    "TopKConfig",
    "TopKSAE",
    "geometric_median",
]
