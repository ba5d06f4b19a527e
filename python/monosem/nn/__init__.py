"""Parameters and algebra: one short file per kind of autoencoder."""

from monosem.nn.activations import Activation, ReLU, TopK
from monosem.nn.auxk import AuxK
from monosem.nn.base import SAE, LossOutput
from monosem.nn.composed import ComposedSAE, Composition
from monosem.nn.config import ReLUConfig, SAEConfig, TopKConfig
from monosem.nn.dense import DenseBlocks
from monosem.nn.dictionary import Dictionary
from monosem.nn.geometric_median import geometric_median
from monosem.nn.gradients import Gradients, Multiplied, RowFactors
from monosem.nn.parameters import Declared, Matrix, Rows, Vector
from monosem.nn.penalties import L1
from monosem.nn.registry import KINDS, register
from monosem.nn.relu import ReLUSAE
from monosem.nn.topk import TopKSAE

__all__ = [
    "KINDS",
    "L1",
    "SAE",
    "Activation",
    "AuxK",
    "ComposedSAE",
    "Composition",
    "Declared",
    "DenseBlocks",
    "Dictionary",
    "Gradients",
    "LossOutput",
    "Matrix",
    "Multiplied",
    "ReLU",
    "ReLUConfig",
    "ReLUSAE",
    "RowFactors",
    "Rows",
    "SAEConfig",
    "TopK",
    "TopKConfig",
    "TopKSAE",
    "Vector",
    "geometric_median",
    "register",
]
