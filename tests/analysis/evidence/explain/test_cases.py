"""What is shown and what is asked: the numbers of the paper, nothing shown twice, and true activations."""

from collections import Counter

import numpy as np
import pytest
import torch
from ruled import DIGITS, HOOK, NUMBER, RULES, ruled_index, ruled_rows, ruled_subject

from monosem.analysis.evidence.explain import choose_features, gather
from monosem.analysis.evidence.explain.cases import interval_shares


def place(snippet):
    return snippet.window.row, snippet.window.position


def test_a_case_has_49_and_60_snippets_of_nine_tokens(ruled):
    *_, cases = ruled
    for name in ("script", "graded", "noise"):
        case = cases[name]
        assert Counter(s.group for s in case.explain) == {"top": 10, "level": 24, "random": 5, "elsewhere": 10}, name
        assert Counter(s.group for s in case.test) == {"top": 6, "level": 24, "random": 10, "elsewhere": 20}
        assert sum(len(s.values) for s in case.test) == 540
        assert all(len(s.tokens) == len(s.values) == 9 for s in (*case.explain, *case.test, *case.spare))


def test_no_window_overlaps_or_repeats_another(ruled):
    _, _, _, cases = ruled
    for case in cases.values():
        snippets = [*case.explain, *case.test, *case.spare]
        assert len({s.tokens for s in snippets}) == len(snippets)
        by_row = {}
        for row, position in map(place, snippets):
            assert all(abs(position - p) > 8 for p in by_row.setdefault(row, []))
            by_row[row].append(position)


def test_snippets_hold_the_activations_of_the_model(ruled):
    subject, rows, _, cases = ruled
    truth = subject.model.activations(rows.tokens.long(), HOOK)
    for case in cases.values():
        for s in (*case.explain, *case.test, *case.spare):
            row, p = place(s)
            assert torch.equal(torch.tensor(s.values), truth[row, p - 4 : p + 5, case.feature])
            assert list(s.tokens) == [subject.model.token_str(t) for t in rows.tokens[row, p - 4 : p + 5].tolist()]


def test_snippets_of_each_group_come_from_its_range(ruled):
    _, _, _, cases = ruled
    graded = cases["graded"]
    assert all(s.values[4] == 4 for s in graded.explain if s.group == "top")
    assert {1.0, 4.0} == {s.values[4] for s in graded.test if s.group == "level"}
    assert all(s.tokens[4] == " the" for s in cases["token"].test if s.group == "elsewhere")
    assert cases["token"].single_token and not graded.single_token
    # The top tokens elsewhere: of a context feature they are mostly silent there.
    elsewhere = [s for s in cases["context"].test if s.group == "elsewhere"]
    assert all(s.tokens[4] == ")" for s in elsewhere) and any(s.values[4] == 0 for s in elsewhere)


def test_activations_become_levels_0_to_9(ruled):
    case = ruled[3]["graded"]
    assert [case.level(v) for v in (0.0, 1e-6, 0.44, 0.45, 4.0, 5.0)] == [0, 1, 1, 2, 9, 9]


def test_the_logit_task_has_50_raised_and_50_random_tokens(ruled):
    subject, *_, cases = ruled
    case = cases["graded"]
    weights = subject.model.logit_directions(HOOK)[case.feature]
    seen = np.unique(ruled[1].tokens)
    order = sorted((t for t in seen.tolist()), key=lambda t: -float(weights[t]))
    ranked = [subject.model.token_str(t) for t in order]
    assert list(case.positive) == ranked[:10] and set(case.negative) <= set(ranked[-10:])
    assert len(case.task) == 100 == len(set(case.task)) and sum(case.plausible) == 50
    raised = {t for t, p in zip(case.task, case.plausible, strict=True) if p}
    assert raised == set(ranked[10:60]) and set(case.positive).isdisjoint(case.task)
    assert list(case.plausible) != sorted(case.plausible, reverse=True)


def test_importance_weights_are_density_times_interval_share(ruled):
    _, _, index, cases = ruled
    case = cases["graded"]
    shares = interval_shares(index, 2, 13)
    # Values are 4 and 1. The histogram's bin of 1, [1, 1.25), ends beyond interval 3, which ends at 4 · 4 / 13.
    assert shares.sum() == pytest.approx(1) and shares[-1] + shares[3:5].sum() == pytest.approx(1, abs=1e-6)
    assert shares[4] / shares[3:5].sum() == pytest.approx((1.25 - 16 / 13) / 0.25)
    density = float(index.density[2])
    for s in case.test:
        if s.group == "random":
            assert s.weight == 1
        elif s.group == "elsewhere" or s.values[4] == 4:
            assert s.weight == pytest.approx(density * shares[-1])
        else:
            assert s.weight == pytest.approx(density * shares[3])


def test_the_same_seed_gives_the_same_cases(ruled):
    subject, rows, index, cases = ruled
    again = gather(subject, index, rows, [2], "neurons", seed=0)[0]
    assert again == cases["graded"]
    assert gather(subject, index, rows, [2], "neurons", seed=1)[0] != again


def test_features_too_rare_are_left_out():
    subject, rows = ruled_subject(), ruled_rows(12)
    rows.tokens[rows.tokens == NUMBER[" the"]] = NUMBER[DIGITS[0]]
    rows.tokens[0, 20:30] = NUMBER[" the"]
    index = ruled_index(subject, rows)
    assert 0 not in choose_features(index, 99)
    assert choose_features(index, 2) == choose_features(index, 2) and len(choose_features(index, 2)) == 2
    with pytest.raises(ValueError, match="fewer than 20"):
        gather(subject, index, rows, [0], "neurons")


def test_few_examples_are_divided_between_explanation_and_test():
    subject, rows = ruled_subject(), ruled_rows(12)
    index = ruled_index(subject, rows)
    case = gather(subject, index, rows, [RULES.index("context")], "neurons")[0]
    active = [sum(s.group in ("top", "level") for s in part) for part in (case.explain, case.test)]
    assert 10 <= sum(active) < 64 and min(active) >= 3
