"""Gradients that an autoencoder gives in factors, multiplied out."""

import monosem as ms
from monosem.nn import SAE, DenseRows, Gradients, RowFactors


def multiplied(sae: SAE, made: Gradients) -> DenseRows:
    """The gradients of both matrices and of the encoder bias as arrays."""
    rows = made.rows
    if not isinstance(rows, RowFactors):
        return rows.whole()
    csc = ms.ops.csc(rows.indices, rows.offsets, sae.cfg.d_sae)
    return DenseRows(
        ms.ops.row_grad(*csc, rows.slopes, rows.inputs),
        ms.ops.row_grad(*csc, rows.values, rows.residual) * rows.decoder_scale,
        ms.ops.feature_sum(*csc[:2], rows.bias_slopes),
    )
