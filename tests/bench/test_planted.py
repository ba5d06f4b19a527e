"""The benchmark of a planted dictionary: which kinds it trains, how L0 is fitted, its table and its picture."""

import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import planted
import planted_svg
import pytest

from monosem.nn import KINDS

RUN = {"recovered_by_depth": [0.5, 0.25], "seconds": 1.0}


def row(name, absorption, f1):
    figures = dict.fromkeys(planted.COLUMNS, 0.5)
    runs = [RUN | figures | {"seed": i, "absorption": a, "f1": f1} for i, a in enumerate(absorption)]
    return {"name": name, "runs": runs, "summary": planted.summary(runs)}


def test_every_kind_that_reads_activations_alone():
    made = planted.configurations()
    assert {"topk", "batch_topk", "jumprelu", "gated", "matryoshka", "relu", "matryoshka_topk"} <= set(made)
    assert made["jumprelu_tanh"].form == "tanh" and made["jumprelu_tanh"].target_l0 is None
    assert {cfg.kind for cfg in made.values()} == set(KINDS) - {"transcoder", "crosscoder"}
    assert all((cfg.d_in, cfg.d_sae) == (planted.D, planted.LATENTS) for cfg in made.values())
    assert made["matryoshka_topk"].activation == "topk" and made["topk"].k == planted.ACTIVE


def test_the_setting_that_l0_follows_from():
    made = planted.configurations()
    follows = {name: planted.coefficient(cfg) for name, cfg in made.items()}
    assert follows["topk"] is follows["matryoshka"] is follows["jumprelu"] is None
    assert follows["relu"] == follows["gated"] == "l1_coefficient" and follows["jumprelu_tanh"] == "l0_coefficient"
    assert planted.coefficient(replace(made["jumprelu"], target_l0=None)) == "l0_coefficient"


def test_table_and_picture():
    rows = [row("topk", [0.2, 0.4], 0.7), row("matryoshka", [0.0, 0.02], 0.6)]
    lines = planted.table({"kinds": rows}).splitlines()
    assert len(lines) == 4 and lines[2].startswith("| topk | 0.50 |") and "30.0% ± 14.1%" in lines[2]
    assert "| 50.0% | 25.0% |" in lines[3] and "1.0% ± 1.4%" in lines[3]
    root = ET.fromstring(planted_svg.bars(rows))
    circles = [element for element in root.iter() if element.tag.endswith("circle")]
    assert len(circles) == 2 * 2 * 2  # panels, kinds, seeds


def test_kinds_are_added_to_a_result_of_the_same_data(tmp_path):
    path = tmp_path / "planted.json"
    there = planted.data(2, 1000, 5e-3) | {"machine": {"cpu": "one"}, "kinds": [row("topk", [0.1], 0.5)]}
    there["kinds"].append(row("relu", [0.1], 0.5) | {"machine": {"cpu": "two"}})
    path.write_text(json.dumps(there))
    others = planted.other_kinds(path, ["gated"], 2, 1000, 5e-3)
    assert [(r["name"], r["machine"]["cpu"]) for r in others] == [("topk", "one"), ("relu", "two")]
    assert [r["name"] for r in planted.other_kinds(path, ["topk"], 2, 1000, 5e-3)] == ["relu"]
    for other in ((3, 1000, 5e-3), (2, 500, 5e-3), (2, 1000, 1e-3)):
        with pytest.raises(ValueError, match=r"^add: .* has (planted|training) "):
            planted.other_kinds(path, ["gated"], *other)
