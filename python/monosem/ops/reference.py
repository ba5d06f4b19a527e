"""The definition of every operation in plain PyTorch, from its folder, which the kernels must match on any device.

x [N, D] inputs · w [F, D] one row per feature · b a bias · (values [nnz], indices [nnz], offsets [N + 1]) a code in CSR
form · (starts [F + 1], entries [nnz], tokens [nnz]) the same code sorted by feature (CSC).
"""

from monosem.ops.csc.reference import csc
from monosem.ops.decode_loss.reference import decode_loss
from monosem.ops.resample.reference import resample_
from monosem.ops.row_adam import flat
from monosem.ops.row_adam import reference as _adam
from monosem.ops.row_grad.reference import feature_sum, row_grad
from monosem.ops.sparse_decode.reference import gather_dot, sparse_decode
from monosem.ops.threshold_encode.reference import threshold_encode, threshold_encode_within
from monosem.ops.topk_encode.reference import topk_encode

row_adam_ = flat.dense(_adam.row_adam_)
row_grad_adam_ = flat.sparse(_adam.row_grad_adam_)
encoder_grad_adam_ = flat.encoder(_adam.encoder_grad_adam_)

__all__ = [
    "csc",
    "decode_loss",
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
