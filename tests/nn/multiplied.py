"""All gradients of an autoencoder as arrays."""

from torch import Tensor

from monosem.nn import Gradients

NAMES = ("W_enc_rows", "W_dec", "b_enc", "b_dec")


def multiplied(made: Gradients) -> list[Tensor]:
    """Those of ``NAMES``, in order."""
    arrays = made.parameters.multiplied()
    return [arrays[name] for name in NAMES]
