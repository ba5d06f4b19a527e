"""Give dead features a new direction."""

from __future__ import annotations

from torch import Tensor

from monosem.ops.library import register
from monosem.ops.resample import cpu, reference

_resample_ = register(
    "resample_(Tensor(a!) w_enc, Tensor(b!) w_dec, Tensor(c!) b_enc, Tensor(d!)[] moments, Tensor features, "
    "Tensor inputs, Tensor alive, float factor) -> ()",
    folder=__name__,
    cpu=cpu.resample_,
    reference=reference.resample_,
    fake=lambda *args: None,
)


def resample_(
    w_enc: Tensor,
    w_dec: Tensor,
    b_enc: Tensor,
    moments: list[Tensor],
    features: Tensor,
    inputs: Tensor,
    alive: Tensor,
    factor: float,
) -> None:
    """Steps 4 to 6 of the paper's neuron resampling, in place.

    Args:
        w_enc, w_dec, b_enc: encoder rows [F, D], decoder rows [F, D] and encoder bias [F].
        moments: Adam's state, tensors [F, …]; their rows become 0.
        features: the dead features, int64 [R]. The decoder row of each becomes its input made unit, its encoder row the
            same direction with norm ``factor`` × the mean encoder norm over the features marked in ``alive``, its
            encoder bias 0. With no feature alive the mean norm is 1.
        inputs: an input per dead feature, [R, D].
        alive: bool [F].
        factor: the paper's 0.2.

    Raises:
        ValueError: a weight cannot be updated in place.

    Source: *Towards Monosemanticity*, appendix "Neuron Resampling".
    """
    _resample_(w_enc, w_dec, b_enc, moments, features, inputs, alive, factor)
