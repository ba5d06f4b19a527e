"""The dictionaries of a preset, for any kind."""

from dataclasses import replace

import pytest

from monosem.nn import KINDS
from monosem.reproduce.presets import PRESETS


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_gets_the_sparsity_of_the_preset(kind):
    preset = replace(PRESETS["small"], kind=kind)
    cfg = preset.architecture(512, 4096)
    settings = {"k": preset.k, "target_l0": preset.k, "l1_coefficient": preset.l1}
    decisive = {name: value for name, value in settings.items() if name not in cfg.without_effect}
    assert any(getattr(cfg, name, None) == value for name, value in decisive.items())
