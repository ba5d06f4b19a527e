"""monosem: fast sparse autoencoders for PyTorch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monosem import ops
    from monosem.analysis.check import check
    from monosem.analysis.metrics import evaluate
    from monosem.analysis.probing import probe
    from monosem.data.exports import export
    from monosem.data.harvest import ActivationStream, harvest
    from monosem.data.models import load_model
    from monosem.data.pretrained import from_pretrained
    from monosem.data.published import push_to_hub
    from monosem.data.sample import documents, sample_documents
    from monosem.data.serialization import load, save
    from monosem.data.store import ActivationStore
    from monosem.data.streamed import StreamedActivations
    from monosem.data.token_rows import pack_rows
    from monosem.data.vectors import save_vectors
    from monosem.drop_in import accelerate
    from monosem.nn import (
        SAE,
        AbsTopKSAE,
        BatchTopKSAE,
        Crosscoder,
        GatedSAE,
        GroupMaxSAE,
        HierarchicalTopKSAE,
        JumpReLUSAE,
        LossOutput,
        MatryoshkaSAE,
        ReLUSAE,
        SAEConfig,
        TopKSAE,
        Transcoder,
        register,
    )
    from monosem.ops import SparseCode
    from monosem.train.config import TrainConfig
    from monosem.train.resample import ResampleConfig
    from monosem.train.trainer import Trainer

__version__ = "0.1.0"

__all__ = [
    "SAE",
    "AbsTopKSAE",
    "ActivationStore",
    "ActivationStream",
    "BatchTopKSAE",
    "Crosscoder",
    "GatedSAE",
    "GroupMaxSAE",
    "HierarchicalTopKSAE",
    "JumpReLUSAE",
    "LossOutput",
    "MatryoshkaSAE",
    "ReLUSAE",
    "ResampleConfig",
    "SAEConfig",
    "SparseCode",
    "StreamedActivations",
    "TopKSAE",
    "TrainConfig",
    "Trainer",
    "Transcoder",
    "accelerate",
    "check",
    "documents",
    "evaluate",
    "export",
    "from_pretrained",
    "harvest",
    "load",
    "load_model",
    "ops",
    "pack_rows",
    "probe",
    "push_to_hub",
    "register",
    "sample_documents",
    "save",
    "save_vectors",
]

# Where each name is. They are imported when first used: PyTorch takes seconds, and `monosem --help` needs none of it.
_HOME = {
    "ActivationStore": "data.store",
    "ActivationStream": "data.harvest",
    "LossOutput": "nn",
    "ReLUSAE": "nn",
    "ResampleConfig": "train.resample",
    "SAE": "nn",
    "SAEConfig": "nn",
    "SparseCode": "ops",
    "StreamedActivations": "data.streamed",
    "BatchTopKSAE": "nn",
    "Crosscoder": "nn",
    "GatedSAE": "nn",
    "JumpReLUSAE": "nn",
    "MatryoshkaSAE": "nn",
    "AbsTopKSAE": "nn",
    "GroupMaxSAE": "nn",
    "HierarchicalTopKSAE": "nn",
    "TopKSAE": "nn",
    "Transcoder": "nn",
    "TrainConfig": "train.config",
    "Trainer": "train.trainer",
    "accelerate": "drop_in",
    "check": "analysis.check",
    "documents": "data.sample",
    "evaluate": "analysis.metrics",
    "from_pretrained": "data.pretrained",
    "export": "data.exports",
    "harvest": "data.harvest",
    "load": "data.serialization",
    "load_model": "data.models",
    "pack_rows": "data.token_rows",
    "probe": "analysis.probing",
    "push_to_hub": "data.published",
    "register": "nn",
    "sample_documents": "data.sample",
    "save": "data.serialization",
    "save_vectors": "data.vectors",
}


_LAYERS = ("analysis", "data", "nn", "ops", "train")


def __getattr__(name: str) -> Any:
    if name in _LAYERS:
        return importlib.import_module(f"monosem.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'monosem' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"monosem.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_LAYERS})
