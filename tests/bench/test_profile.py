"""The profile of a run: floors of its phases, sums that add up, and a picture."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch

import monosem as ms
from monosem.bench import profile, profile_svg, show
from monosem.bench.floor import Rates
from monosem.bench.profile import Shape, floors
from monosem.ops.step_stats import FALLBACKS
from monosem.train.learner import Learner
from monosem.train.notices import GUIDE

RATES = Rates(flops_per_second=4e9, bytes_per_second=1e8, product="int8", measured={"fp32": 1e9, "int8": 4e9})


def taken(sae, steps=12, rates=RATES, **options):
    config = ms.TrainConfig(steps=100, batch_size=64, init_bias=False, **options)
    learner = Learner(sae, config, time_phases=True)
    g = torch.Generator().manual_seed(0)
    batches = (torch.randn(64, 16, generator=g) for _ in range(steps + profile.WARMUP))
    return profile.measure(learner, batches, 50, steps, rates=rates)


def test_floors_are_products_and_bytes():
    s = Shape(n=100, d=10, f=1000, l0=5, rescored=8)
    ms_of = floors(s, RATES)
    row, entries = 40, 500
    assert ms_of["encode"] == pytest.approx(1e3 * (2 * 100 * 10 * 1000 / 4e9 + 100 * 8 * row / 1e8))
    assert ms_of["decode_loss"] == pytest.approx(1e3 * (entries * row + 2 * 100 * row) / 1e8)
    assert ms_of["encoder_sweep"] == ms_of["decoder_sweep"] == pytest.approx(1e3 * (entries * row + 24e4) / 1e8)
    assert not {"aux", "dense_products"} & ms_of.keys()
    half = floors(Shape(n=100, d=10, f=1000, l0=5, rescored=8, dense=0.5), RATES)
    assert half["dense_products"] == pytest.approx(0.5e3 * 2 * 2e6 / 1e9)
    assert half["encode"] == pytest.approx(0.5 * ms_of["encode"])
    small = floors(Shape(n=100, d=10, f=1000, l0=5, moment_bytes=1), RATES)
    assert small["encoder_sweep"] == pytest.approx(1e3 * (entries * row + 12e4) / 1e8)
    lazy = floors(Shape(n=100, d=10, f=1000, l0=5, lazy=True), RATES)
    assert lazy["encoder_sweep"] == pytest.approx(1e3 * entries * row / 1e8)


@pytest.mark.parametrize(
    ("aux", "seconds", "entries"),
    [("dense", 5 * 2 * 100 * 50 * 10 / 1e9, 50), ("gathered", 2 * 100 * 50 * 10 / 4e9 + 100 * 4 * 40 / 1e8, 400)],
)
def test_the_floor_of_auxk_is_that_of_its_way(aux, seconds, entries):
    s = Shape(n=100, d=10, f=1000, l0=5, aux=aux, aux_rows=50, aux_size=4)
    ms_of = floors(s, RATES)
    assert ms_of["aux"] == pytest.approx(1e3 * seconds)
    assert ms_of["encoder_sweep"] == pytest.approx(1e3 * ((500 + entries) * 40 + 24e4) / 1e8)


@pytest.mark.parametrize("kind", ["topk", "relu", "clipped"])
def test_phases_and_the_rest_add_up_to_the_step(kind):
    sae = ms.ReLUSAE(16, 48, seed=0) if kind == "relu" else ms.TopKSAE(16, 48, k=4, seed=0)
    result = taken(sae, clip=1.0 if kind == "clipped" else None)
    rows = {row["name"]: row for row in result["phases"]}
    assert sum(row["ms"] for row in rows.values()) == pytest.approx(result["step"]["ms"])
    assert sum(row["share"] for row in rows.values()) == pytest.approx(1)
    assert result["steps"] == 10  # without the fastest and the slowest of 12
    phases = {"topk": "encoder_sweep", "relu": "dense_sweep", "clipped": "clip"}
    assert rows[phases[kind]]["to_floor"] > 0 and rows["other"]["floor_ms"] is None
    assert result["step"]["floor_ms"] == pytest.approx(sum(row["floor_ms"] or 0 for row in rows.values()))
    assert list(rows)[:2] == (["centre", "dense_products"] if kind == "relu" else ["encode", "decode_loss"])
    assert list(rows)[-1] == "other"
    json.dumps(result)


def test_every_phase_of_the_package_has_a_place_in_the_table_and_in_the_guide():
    package, guide = Path(ms.__file__).parent, Path(__file__).parents[2] / "docs" / "howto" / "slow_step.md"
    named = {n for p in package.rglob("*.py") for n in re.findall(r'\bphase\("(\w+)"\)', p.read_text(encoding="utf-8"))}
    assert named == set(profile.PHASES)
    text = guide.read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in named | set(FALLBACKS))
    assert str(guide).endswith(GUIDE)


def test_too_few_activations_are_refused():
    learner = Learner(ms.TopKSAE(16, 48, k=4), ms.TrainConfig(), time_phases=True)
    with pytest.raises(ValueError, match="ended after 3 batches; wanted more than the 3"):
        profile.measure(learner, iter([torch.randn(8, 16)] * 3), 0, 5, rates=RATES)


def test_a_profile_without_floors_as_on_a_gpu_has_a_table_and_a_picture():
    result = taken(ms.TopKSAE(16, 48, k=4, seed=0))
    for row in [*result["phases"], result["step"]]:
        row |= {"floor_ms": None, "to_floor": None}
    text = " ".join(ET.fromstring(profile_svg.draw(result | {"floor": None})).itertext())
    assert "floor" not in text and "measured" not in text
    assert re.search(r"^step +[\d.,]+ +100.0% *$", show.text(show.profile_table(result)), flags=re.M)


def test_table_and_picture_show_every_phase():
    result = taken(ms.TopKSAE(16, 48, k=4, seed=0)) | {"notices": ["rows_redone: …"]}
    table = show.text(show.profile_table(result))
    for row in [*result["phases"], result["step"]]:
        assert re.search(rf"^{row['name']} +[\d.,]+ +{row['share']:.1%}", table, flags=re.M)
    assert "waiting for activations" in table
    drawn = ET.fromstring(profile_svg.draw(result))
    text = " ".join(drawn.itertext())
    shown = [row for row in result["phases"] if row["share"] >= profile_svg.SHOWN]
    assert all(row["name"] in text for row in shown) and all(line in text for line in result["words"])
    bars = [r for r in drawn.iter("{http://www.w3.org/2000/svg}rect") if r.get("class")]
    assert len(bars) == 2 + len(shown) + sum(row["floor_ms"] is not None for row in shown)
