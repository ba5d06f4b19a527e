"""monosem: fast sparse autoencoders for PyTorch."""

from monosem import ops
from monosem.data.harvest import ActivationStream, harvest
from monosem.data.models import load_model
from monosem.data.rows import pack_rows
from monosem.data.sample import sample_documents
from monosem.data.saved import load, save
from monosem.data.store import ActivationStore
from monosem.nn import ReLUSAE, TopKSAE
from monosem.ops import SparseCode
from monosem.train.config import TrainConfig
from monosem.train.resample import ResampleConfig
from monosem.train.trainer import Trainer

__version__ = "0.1.0"

__all__ = [
    "ActivationStore",
    "ActivationStream",
    "ReLUSAE",
    "ResampleConfig",
    "SparseCode",
    "TopKSAE",
    "TrainConfig",
    "Trainer",
    "harvest",
    "load",
    "load_model",
    "ops",
    "pack_rows",
    "sample_documents",
    "save",
]
