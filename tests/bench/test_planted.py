"""The benchmark of a planted dictionary: which kinds it trains, how L0 is fitted, its table and its picture."""

import xml.etree.ElementTree as ET
from dataclasses import replace

import planted
import planted_svg

from monosem.nn import KINDS

RUN = {"recovered_by_depth": [0.5, 0.25], "seconds": 1.0}


def row(name, absorption, f1):
    figures = dict.fromkeys(planted.COLUMNS, 0.5)
    runs = [RUN | figures | {"seed": i, "absorption": a, "f1": f1} for i, a in enumerate(absorption)]
    return {"name": name, "runs": runs, "summary": planted.summary(runs)}


def test_every_kind_that_reads_activations_alone():
    made = planted.configurations()
    assert {"topk", "batch_topk", "jumprelu", "gated", "matryoshka", "relu", "matryoshka_topk"} <= set(made)
    assert {cfg.kind for cfg in made.values()} == set(KINDS) - {"transcoder", "crosscoder"}
    assert all((cfg.d_in, cfg.d_sae) == (planted.D, planted.LATENTS) for cfg in made.values())
    assert made["matryoshka_topk"].activation == "topk" and made["topk"].k == planted.ACTIVE


def test_the_setting_that_l0_follows_from():
    made = planted.configurations()
    follows = {name: planted.coefficient(cfg) for name, cfg in made.items()}
    assert follows["topk"] is follows["matryoshka"] is follows["jumprelu"] is None
    assert follows["relu"] == follows["gated"] == "l1_coefficient"
    assert planted.coefficient(replace(made["jumprelu"], target_l0=None)) == "l0_coefficient"


def test_table_and_picture():
    rows = [row("topk", [0.2, 0.4], 0.7), row("matryoshka", [0.0, 0.02], 0.6)]
    lines = planted.table({"kinds": rows}).splitlines()
    assert len(lines) == 4 and lines[2].startswith("| topk | 0.50 |") and "30.0% ± 14.1%" in lines[2]
    assert "| 50.0% | 25.0% |" in lines[3] and "1.0% ± 1.4%" in lines[3]
    root = ET.fromstring(planted_svg.bars(rows))
    circles = [element for element in root.iter() if element.tag.endswith("circle")]
    assert len(circles) == 2 * 2 * 2  # panels, kinds, seeds
