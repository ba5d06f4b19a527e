"""Give dead features a new direction."""

from __future__ import annotations

from monosem.ops import cpu_rows, reference
from monosem.ops.library import register

resample_ = register(
    "resample_(Tensor(a!) w_enc, Tensor(b!) w_dec, Tensor(c!) b_enc, Tensor(d!)[] moments, Tensor features, "
    "Tensor inputs, Tensor alive, float factor) -> ()",
    cpu=cpu_rows.resample_,
    reference=reference.resample_,
    fake=lambda *args: None,
)
"""Steps 4 to 6 of the paper's neuron resampling, in place.

For each of ``features`` (int64 [R]): decoder row ← its input (``inputs`` [R, D]) made unit, encoder row ← the same
direction with norm ``factor`` × the mean encoder norm over the features marked in ``alive`` (bool [F]), encoder bias
← 0, and the rows of every tensor in ``moments`` (Adam's state, [F, …]) ← 0. With no feature alive the mean norm is 1.

Source: *Towards Monosemanticity*, appendix "Neuron Resampling" (factor 0.2).
"""
