"""Parameters and algebra: one short file per part and per kind of autoencoder."""

from monosem.nn.activations import AbsTopK, Activation, BatchThreshold, BatchTopK, Gated, GroupMax, JumpReLU, ReLU, TopK
from monosem.nn.architectures import (
    AbsTopKConfig,
    AbsTopKSAE,
    BatchTopKConfig,
    BatchTopKSAE,
    Crosscoder,
    CrosscoderConfig,
    GatedConfig,
    GatedSAE,
    GroupMaxConfig,
    GroupMaxSAE,
    HierarchicalTopKConfig,
    HierarchicalTopKSAE,
    JumpReLUConfig,
    JumpReLUSAE,
    MatryoshkaConfig,
    MatryoshkaSAE,
    ReLUSAE,
    TopKSAE,
    Transcoder,
    TranscoderConfig,
)
from monosem.nn.auxk import AuxK
from monosem.nn.base import SAE, LossOutput
from monosem.nn.composed import ComposedSAE
from monosem.nn.composition import Composition
from monosem.nn.config import ReLUConfig, SAEConfig, TopKConfig, TrainedOn
from monosem.nn.dense import DenseBlocks
from monosem.nn.dictionary import Dictionary
from monosem.nn.geometric_median import geometric_median
from monosem.nn.gradients import Gradients, Multiplied, RowFactors
from monosem.nn.nesting import Prefixes, Ranks
from monosem.nn.parameters import Declared, Matrix, Rows, Vector
from monosem.nn.penalties import L0, L1, GateL1, Lp, NormL1, Penalty, PreActivation, Tanh
from monosem.nn.registry import KINDS, register

__all__ = [
    "KINDS",
    "L0",
    "L1",
    "SAE",
    "AbsTopK",
    "AbsTopKConfig",
    "AbsTopKSAE",
    "Activation",
    "AuxK",
    "BatchThreshold",
    "BatchTopK",
    "BatchTopKConfig",
    "BatchTopKSAE",
    "ComposedSAE",
    "Composition",
    "Crosscoder",
    "CrosscoderConfig",
    "Declared",
    "DenseBlocks",
    "Dictionary",
    "GateL1",
    "Gated",
    "GatedConfig",
    "GatedSAE",
    "Gradients",
    "GroupMax",
    "GroupMaxConfig",
    "GroupMaxSAE",
    "HierarchicalTopKConfig",
    "HierarchicalTopKSAE",
    "JumpReLU",
    "JumpReLUConfig",
    "JumpReLUSAE",
    "LossOutput",
    "Lp",
    "Matrix",
    "MatryoshkaConfig",
    "MatryoshkaSAE",
    "Multiplied",
    "NormL1",
    "Penalty",
    "PreActivation",
    "Prefixes",
    "Ranks",
    "ReLU",
    "ReLUConfig",
    "ReLUSAE",
    "RowFactors",
    "Rows",
    "SAEConfig",
    "Tanh",
    "TopK",
    "TopKConfig",
    "TopKSAE",
    "TrainedOn",
    "Transcoder",
    "TranscoderConfig",
    "Vector",
    "geometric_median",
    "register",
]
