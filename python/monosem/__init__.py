"""monosem: fast sparse autoencoders for PyTorch."""

from monosem import ops
from monosem.data.saved import load, save
from monosem.nn import ReLUSAE, TopKSAE
from monosem.ops import SparseCode

__version__ = "0.1.0"

__all__ = ["ReLUSAE", "SparseCode", "TopKSAE", "load", "ops", "save"]
