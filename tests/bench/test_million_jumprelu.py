"""The benchmark of a million JumpReLU features, on some thousands."""

from argparse import Namespace

import million_jumprelu
import pytest


@pytest.mark.parametrize("prepared", [False, True])
def test_each_stage_on_a_few_features(tmp_path, prepared):
    args = Namespace(d_in=16, d_sae=3000, tokens=40, folder=tmp_path)
    written = million_jumprelu.write(args)
    assert written["weights_bytes"] == 4 * (2 * 16 * 3000 + 2 * 3000 + 16)
    found = million_jumprelu.measure(args, prepared)
    assert 20 < found["l0"] < 200  # 70 on the tokens by which θ was chosen
    assert 0 < found["imported_bytes"] <= found["loaded_bytes"] <= found["peak_bytes"]
    assert million_jumprelu.check(args)["largest_difference"] < 1e-4
