"""The arithmetic of the rubric."""

import json

import pytest

from monosem.analysis.evidence.rate import measure, section
from monosem.analysis.evidence.rate.steps import MOST_POINTS, STEPS, total
from monosem.analysis.evidence.section import render_page

FULL = {"confidence": 3, "high": 5, "logits": 3, "specificity": 3}
ZERO = {s.name: 0 for s in STEPS}
KEY = {
    "format": 1,
    "study": "abc",
    "items": {
        "1": {"kind": "neurons", "feature": 7},
        "2": {"kind": "features", "feature": 70},
        "3": {"kind": "features", "feature": 71},
        "4": {"kind": "neurons", "feature": 8},
        "5": {"kind": "shuffled", "feature": 3},
    },
}


def file(answers, study="abc", name="Ada"):
    return {"format": 1, "study": study, "annotator": name, "answers": answers}


def test_points_are_added_by_the_rubric():
    assert total(FULL) == 14 == MOST_POINTS and total(FULL | {"separation": 1}) == 14
    assert total(FULL | {"logits": 2, "separation": 1}) == 14
    assert total(FULL | {"logits": 2}) is None and total(ZERO) == 0 and total({}) is None
    assert total({**ZERO, "high": 4, "confidence": 2, "separation": 1}) == 7
    assert sum(s.max_points for s in STEPS) == 15  # separation counts only where the next tokens are not perfect


def test_medians_by_kind():
    answers = {
        "1": ZERO,
        "2": FULL | {"hypothesis": "<b>base64</b>", "fits": {"11": True, "10": True, "1": False}},
        "3": FULL | {"logits": 1, "separation": 0},
        "4": ZERO | {"high": 1},
        "5": {"confidence": 1},
    }
    result = measure([file(answers)], KEY)
    assert result.kinds == ["features", "neurons"] and result.open == 1 and result.agreement is None
    features = result.summary("features")
    assert features["points"]["median"] == 13 and features["above_8"] == 1.0 and features["n"] == 2
    assert features["steps"]["separation"] == {"median": 0.0, "low": 0.0, "high": 0.0, "n": 1}
    assert features["fits"]["median"] == pytest.approx(2 / 3)
    assert result.summary("neurons")["points"]["median"] == 0.5
    assert "features" in result.table() and "left out: 1" in result.table()
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    page = render_page("Rated", [section(plain)])
    assert "&lt;b&gt;base64" in page and "features 13 [12, 14]" in page


def test_two_annotators_are_averaged_and_compared():
    one = {n: FULL if n in "23" else ZERO for n in KEY["items"]}
    two = {n: FULL | {"confidence": 1} if n in "23" else ZERO | {"high": 2} for n in KEY["items"]}
    result = measure([file(one), file(two, name="Ben")], KEY)
    assert result.agreement == pytest.approx(1) and result.annotators == ("Ada", "Ben")
    assert result.summary("features")["points"]["median"] == 13 and result.summary("neurons")["points"]["median"] == 1


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([], "got none"),
        ([file({"1": ZERO}, study="other")], "belong to study 'other'"),
        ([file({"9": ZERO})], "rated item '9'"),
        ([file({"1": ZERO | {"high": 6}})], "item 1 of Ada has high=6"),
        ([file({"1": ZERO | {"high": True}})], "high=True"),
        ([file({"1": {"high": 2}})], "no item is finished"),
    ],
)
def test_what_does_not_belong_is_refused(answers, message):
    with pytest.raises(ValueError, match=message):
        measure(answers, KEY)
