"""The whole way with the local interpreter: a known rule scores about 1, noise about 0."""

import json
from dataclasses import replace

import pytest

from monosem.analysis.evidence.explain import LocalInterpreter, logit_section, measure, section
from monosem.analysis.evidence.explain.scoring import detection_set, fuzzing_set, judge
from monosem.analysis.evidence.section import render_page


@pytest.fixture(scope="module")
def judged(ruled):
    cases = ruled[3]
    return dict(zip(cases, judge(list(cases.values()), LocalInterpreter()), strict=True))


@pytest.mark.parametrize("rule", ["token", "script", "graded", "context"])
def test_a_known_rule_is_found(judged, rule):
    item = judged[rule]
    # What stands before a snippet's first tokens is cut off: a bracket that opened there cannot be seen.
    simulation, weighted, others = (0.85, 0.75, 0.85) if rule == "context" else (0.97, 0.9, 0.99)
    assert item.scores["simulation"] > simulation and item.scores["weighted"] > weighted, item.explanation
    assert item.scores["detection"] > others and item.scores["fuzzing"] > others and not item.failed, item.explanation


def test_noise_scores_nothing(judged):
    scores = judged["noise"].scores
    # Under independence ρ has a standard deviation of 1/√540 = 0.043; the 30 chosen places lift it a little.
    assert abs(scores["simulation"]) < 0.2 and abs(scores["detection"] - 0.5) < 0.15, judged["noise"].explanation


def test_the_logit_task_is_solved_from_the_explanation(judged):
    for rule in ("token", "script", "graded"):
        assert judged[rule].scores["logits"] >= 0.95, judged[rule].explanation
    assert judged["noise"].scores["logits"] == pytest.approx(0.5, abs=0.2)


def test_detection_and_fuzzing_have_right_and_wrong_snippets(ruled):
    import numpy as np

    for case in ruled[3].values():
        asked = detection_set(case)
        assert all(s.active == right for s, _, right in asked)
        assert sum(r for *_, r in asked) == 30 >= sum(not r for *_, r in asked) >= 5
        marked = fuzzing_set(case, np.random.default_rng(0))
        for s, marks, right in marked:
            assert marks and all((s.values[i] > 0) == right for i in marks)
        assert abs(sum(r for *_, r in marked) - sum(not r for *_, r in marked)) <= 1


class Silent(LocalInterpreter):
    """Explains nothing of the first case, and answers no simulation."""

    name = "silent"

    def explain(self, cases):
        return [None, *super().explain(cases)[1:]]

    def simulate(self, questions):
        return [None for _ in questions]

    def fuzz(self, questions):
        return [[True] * len(q.snippets) for q in questions]


def test_unanswered_questions_are_counted_and_not_scored(ruled):
    result = measure(list(ruled[3].values()), Silent())
    summary = result.summary("neurons")
    assert summary["failed"] == {
        "explanation": 1,
        "simulation": 4,
        "weighted": 0,
        "detection": 0,
        "fuzzing": 0,
        "logits": 0,
    }
    assert summary["scores"]["simulation"] is None and summary["scores"]["detection"]["n"] == 4
    assert summary["scores"]["fuzzing"]["median"] == 0.5
    assert "n/a" in result.table()


def test_result_table_and_page(ruled):
    cases = list(ruled[3].values())
    control = [replace(c, kind="shuffled") for c in cases[:2]]
    result = measure(cases + control, LocalInterpreter(), subjects={"neurons": {"model": "ruled"}})
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert plain["kinds"]["neurons"]["single_token_share"] == pytest.approx(0.4)  # `` the`` and ``)``
    assert plain["kinds"]["neurons"]["n"] == 5 and plain["kinds"]["shuffled"]["n"] == 2
    assert plain["kinds"]["shuffled"]["zero_share_mean"] > 0.7
    assert "neurons" in result.table() and "simulation" in result.table()
    page = render_page("T", [section(plain), logit_section(plain)])
    assert 'dir="rtl"' in page and page.count('class="told"') == 7
    assert "0.74" in page and "<script>alert" not in page
    with pytest.raises(ValueError, match="got none"):
        measure([], LocalInterpreter())
