"""The evidence of steering, on a model in which it must hold: features of a…h write a…h."""

import json

import numpy as np
import pytest
import torch
from chain_model import HOOK, LETTERS, ChainModel, chain_rows, letters_sae

from monosem.analysis import steered_reading
from monosem.analysis.evidence import steer, steer_page
from monosem.analysis.evidence.section import render_page
from monosem.analysis.index import build_index
from monosem.analysis.inputs import Subject
from monosem.analysis.sources import group_sources
from monosem.analysis.steering import Edit, Steering


@pytest.fixture(scope="module")
def subject():
    return Subject(letters_sae(), ChainModel(), HOOK)


@pytest.fixture(scope="module")
def index(subject):
    return build_index(subject, chain_rows(), progress=False)


def low(ids):
    return float(np.mean([1 <= i <= 8 for i in ids]))


@pytest.fixture(scope="module")
def result(subject, index):
    """The prompt is in i…p, so the model by itself stays there."""
    return steer.measure(
        subject,
        index,
        judges={"Arabic": low, "Hebrew": low},
        groups=group_sources(index.sources),
        features={"Arabic": LETTERS.index("c")},
        prompts=("ij", "ijk"),
        length=5,
        samples=4,
        trials=2,
        multiples=(0.1, 3.0, 9.0),
        contexts=3,
        temperature=0.5,
        judged="by the letters",
    )


def test_a_pinned_feature_writes_text_of_its_label(result):
    (case,) = result.cases  # Hebrew has no text here
    assert case.label == "Arabic" and LETTERS[case.feature] == "c"
    assert [(r["multiple"], r["prompt"]) for r in case.runs] == [(1, "ij"), (1, "ijk"), (3, "ij"), (3, "ijk")]
    assert [(r["hits"], r["control_hits"]) for r in case.runs[2:]] == [(4, 0), (4, 0)]
    assert case.multiple == 3.0  # 0.1 is too little, and 9 no better than 3
    assert case.sweep["hits"] == [0.0, 1.0, 1.0]
    assert case.maximum == 1.0 and case.precision == 1.0 and case.recall == pytest.approx(1 / 8, abs=0.03)
    assert all(s["steered_share"] > 0.9 and s["unsteered_share"] < 0.1 for r in case.runs[2:] for s in r["samples"])
    at_maximum, best = case.runs[0]["samples"], case.runs[2]["samples"]
    assert [s["unsteered"] for s in at_maximum] == [s["unsteered"] for s in best]
    assert case.top_logits[0][0] == LETTERS[case.feature + 1]


def test_ablation_lowers_the_likelihood_of_the_label_only(result):
    """One of eight tokens of the label is predicted by the feature; without it, it is as likely as any other."""
    effect = result.cases[0].effect
    lost = torch.tensor([12.0] + [0.0] * 16).log_softmax(0)[0] + np.log(17)
    assert effect.other == 0.0 and effect.active == pytest.approx(-float(lost), rel=1e-4)
    assert effect.label == pytest.approx(-float(lost) * effect.tokens_active / effect.tokens_label, rel=1e-4)
    low, high = effect.label_interval  # of the share of the feature's tokens in the contexts; what they lose is certain
    assert low <= effect.label <= high and effect.other_interval == (0.0, 0.0)
    assert effect.active_interval == pytest.approx((-float(lost), -float(lost)), rel=1e-4)
    pieces = result.cases[0].passage["pieces"]
    fired = [i for i, p in enumerate(pieces) if p["value"] > 0]
    assert fired and all(pieces[i + 1]["change"] < -2 for i in fired if i + 1 < len(pieces))


def test_the_section_is_drawn_from_json(result):
    record = json.loads(json.dumps(result.to_dict()))
    section = steer_page.section(record)
    assert section.findings[0].ours.endswith("samples at 1× the maximum; 0 of 4 without steering")
    assert section.findings[0].paper == "it does" and section.findings[2].paper is None
    assert "4 of 4 samples at 3× the maximum; 0 of 4 without steering" in section.findings[2].ours
    page = render_page("Steering", [section])
    assert "judged Arabic" in page and "by the letters" in page and page.count('class="side"') == 4 * 4 + 1
    assert "4 of 4" in result.table() and "3x its max" in result.table()


def test_a_text_without_the_label_is_refused(subject, index):
    with pytest.raises(ValueError, match="labels: none of DNA has text here"):
        steer.measure(subject, index, judges={"DNA": low}, groups=group_sources(index.sources), features={})
    with pytest.raises(ValueError, match="labels: no feature follows Arabic on this text; name a feature"):
        steer.measure(subject, index, judges={"Arabic": low}, groups=group_sources(index.sources), features={})


def test_steered_reading_is_averaged_by_source(subject):
    rows = chain_rows()
    steering = Steering(subject.sae, [Edit(LETTERS.index("c"), "ablate")])
    result = steered_reading.reading(subject, rows, steering, contexts=5)
    lost = float(torch.tensor([12.0] + [0.0] * 16).log_softmax(0)[0] + np.log(17))
    low_rows = rows.tokens[rows.source[:, 0] == 0]
    share = (low_rows[:, 1:-1] == LETTERS.index("c")).mean()
    assert result.sources["other"][0] == 0.0 and result.tokens == 12 * 22
    assert result.sources["ar_low"][0] == pytest.approx(-lost * share, rel=1e-4)
    assert result.change == pytest.approx(-lost * share / 2, rel=1e-4)
    assert result.table().splitlines()[1].startswith("ar_low")
