"""The dictionaries of a preset, for any kind."""

from dataclasses import replace

import pytest

from monosem.nn import KINDS
from monosem.reproduce.presets import PRESETS


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_gets_the_sparsity_of_the_preset(kind):
    preset = replace(PRESETS["small"], kind=kind)
    cfg = preset.architecture(512, preset.run("A/1"))
    settings = {"k": preset.k, "target_l0": preset.k, "l1_coefficient": preset.l1}
    decisive = {name: value for name, value in settings.items() if name not in cfg.without_effect}
    assert any(getattr(cfg, name, None) == value for name, value in decisive.items())


@pytest.mark.parametrize("kind", ["topk", "relu", "matryoshka"])
def test_wide_runs_have_their_own_auxk(kind):
    preset = replace(PRESETS["paper"], kind=kind)
    narrow, wide = (preset.architecture(512, preset.run(name)) for name in ("A/1", "A/5"))
    assert [getattr(narrow, "aux_k", 256), getattr(narrow, "aux_every", 1)] == [256, 1]
    if kind != "relu":
        assert [wide.aux_k, wide.aux_every] == [32, 4]
    assert preset.run("A/1").to_dict() == {"name": "A/1", "d_sae": 4096, "steps": 49_000}
    assert preset.run("A/5").to_dict()["aux_every"] == 4


def test_relu_begins_with_few_active_features():
    relu, topk, matryoshka = (replace(PRESETS["small"], kind=kind) for kind in ("relu", "topk", "matryoshka"))
    assert relu.architecture(512, relu.run("A/1")).initial_l0 == 50
    assert relu.architecture(16, replace(relu.run("A/0"), d_sae=64)).initial_l0 == 6.4
    assert relu.to_dict()["initial_l0"] == 50 and "initial_l0" not in topk.to_dict()
    # Its activation is batch_topk: records of before the setting existed, which lack it, stay those of this preset.
    assert matryoshka.architecture(512, matryoshka.run("A/1")).initial_l0 is None
    assert "initial_l0" not in matryoshka.to_dict()


def test_own_settings_are_those_that_differ_from_the_default():
    preset = PRESETS["paper"]
    assert preset.run("A/1").own_settings == {} and preset.run("A/2").own_settings == {"aux_k": 32}
    assert preset.run("A/5").own_settings == {"aux_k": 32, "aux_every": 4, "lazy_rows": True}
