"""The kernels as functions on tensors: differentiable, and fit for ``torch.compile``."""

from monosem.ops.code import SparseCode
from monosem.ops.csc import csc
from monosem.ops.decode_loss import decode_loss, decode_loss_rows
from monosem.ops.encoder_copy import encoder_copy
from monosem.ops.resample import resample_
from monosem.ops.row_adam import encoder_grad_adam_, row_adam_, row_grad_adam_
from monosem.ops.row_grad import feature_sum, row_grad
from monosem.ops.sparse_decode import decode, gather_dot, sparse_decode
from monosem.ops.threshold_encode import threshold_encode, threshold_encode_within
from monosem.ops.topk_encode import topk_encode

__all__ = [
    "SparseCode",
    "csc",
    "decode",
    "decode_loss",
    "decode_loss_rows",
    "encoder_copy",
    "encoder_grad_adam_",
    "feature_sum",
    "gather_dot",
    "resample_",
    "row_adam_",
    "row_grad",
    "row_grad_adam_",
    "sparse_decode",
    "threshold_encode",
    "threshold_encode_within",
    "topk_encode",
]
