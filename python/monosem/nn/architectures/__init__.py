"""The kinds of autoencoders, one short file each: a configuration, parameters, and a composition of parts."""

from monosem.nn.architectures.abs_topk import AbsTopKConfig, AbsTopKSAE
from monosem.nn.architectures.batch_topk import BatchTopKConfig, BatchTopKSAE
from monosem.nn.architectures.crosscoder import Crosscoder, CrosscoderConfig
from monosem.nn.architectures.gated import GatedConfig, GatedSAE
from monosem.nn.architectures.group_max import GroupMaxConfig, GroupMaxSAE
from monosem.nn.architectures.hierarchical_topk import HierarchicalTopKConfig, HierarchicalTopKSAE
from monosem.nn.architectures.jumprelu import JumpReLUConfig, JumpReLUSAE
from monosem.nn.architectures.matryoshka import MatryoshkaConfig, MatryoshkaSAE
from monosem.nn.architectures.relu import ReLUSAE
from monosem.nn.architectures.topk import TopKSAE
from monosem.nn.architectures.transcoder import Transcoder, TranscoderConfig

__all__ = [
    "AbsTopKConfig",
    "AbsTopKSAE",
    "BatchTopKConfig",
    "BatchTopKSAE",
    "Crosscoder",
    "CrosscoderConfig",
    "GatedConfig",
    "GatedSAE",
    "GroupMaxConfig",
    "GroupMaxSAE",
    "HierarchicalTopKConfig",
    "HierarchicalTopKSAE",
    "JumpReLUConfig",
    "JumpReLUSAE",
    "MatryoshkaConfig",
    "MatryoshkaSAE",
    "ReLUSAE",
    "TopKSAE",
    "Transcoder",
    "TranscoderConfig",
]
