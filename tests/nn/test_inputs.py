"""Inputs that an autoencoder cannot read are refused with a message of one sentence."""

import numpy as np
import pytest
import torch

import monosem as ms


@pytest.mark.parametrize("make", [lambda: ms.TopKSAE(16, 48, 4), lambda: ms.ReLUSAE(16, 48, 1e-3)])
def test_inputs_that_are_not_tensors_are_refused(make):
    sae = make()
    for call in (sae, sae.encode, sae.loss, sae.gradients):
        for x in (np.zeros((4, 16), np.float32), [[0.0] * 16]):
            with pytest.raises(TypeError, match=r"x: got (ndarray|list); wanted a tensor .*d_in=16\].*from_numpy"):
                call(x)
        with pytest.raises(ValueError, match=r"x: got torch\.float16.*x\.to\(torch\.float32\)"):
            call(torch.zeros(4, 16, dtype=torch.float16))
    for call in (sae.loss, sae.gradients):
        with pytest.raises(ValueError, match=r"x: got no row, shape \[0, 16\]"):
            call(torch.zeros(0, 16))
    assert sae(torch.zeros(0, 16)).shape == (0, 16)
