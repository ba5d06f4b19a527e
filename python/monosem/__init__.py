"""monosem: fast sparse autoencoders for PyTorch."""

from monosem import ops
from monosem.data.saved import load, save
from monosem.nn import ReLUSAE, TopKSAE
from monosem.ops import SparseCode
from monosem.train.config import TrainConfig
from monosem.train.resample import ResampleConfig
from monosem.train.trainer import Trainer

__version__ = "0.1.0"

__all__ = ["ReLUSAE", "ResampleConfig", "SparseCode", "TopKSAE", "TrainConfig", "Trainer", "load", "ops", "save"]
