"""Attributes of tokens, and rules learned from examples."""

import pytest

from monosem.analysis.evidence.explain.attributes import classes, in_context, quote
from monosem.analysis.evidence.explain.rules import Rules, learn, learn_next


@pytest.mark.parametrize(
    ("token", "wanted"),
    [
        ("42", {"digits", "base64 alphabet", "hexadecimal"}),
        (" Berlin", {"Capitalised", "begins with a space", "LATIN script"}),
        ("NASA", {"UPPER CASE", "LATIN script"}),
        ("ACGT", {"only A C G T", "UPPER CASE"}),
        ("مر", {"ARABIC script", "goes on with a word"}),
        (" של", {"HEBREW script", "begins with a space"}),
        ("の", {"HIRAGANA script"}),
        ("⟨D8⟩", {"part of a character"}),
        ("\n\n", {"line break"}),
        ("</div>", {"markup"}),
        ("snake_case", {"underscore"}),
        ("xK", {"mixed case", "base64 alphabet"}),
        (").", {"closing bracket", "punctuation"}),
    ],
)
def test_tokens_have_the_classes_of_their_text(token, wanted):
    got = set(classes(token))
    assert wanted - {"hexadecimal"} <= got
    assert ("hexadecimal" in got) == (token == "a1")


def test_attributes_use_only_preceding_tokens():
    a = in_context(["x", "y", "z"])
    b = in_context(["x", "y", "w"])
    assert a[:2] == b[:2] and a[2] != b[2]
    assert 'previous token "y"' in a[2] and 'shortly before "x"' in a[2]


def test_rules_survive_conversion_to_text():
    odd = 'a "quoted" ∧ \n where otherwise'
    rules = Rules(
        ((7.5, (f"token {quote(odd)}", "previous token: digits")), (2.0, ("token: digits",))),
        0.3,
        ((1.2, f"token {quote(odd)}"), (-0.7, "token: UPPER CASE")),
    )
    assert Rules.parse(str(rules)) == rules
    assert len(str(rules).splitlines()) == 5
    with pytest.raises(ValueError, match="no rule"):
        Rules.parse("it likes numbers")


def test_a_token_is_learned():
    rules, otherwise = learn(
        [[" a", " the", " b"], [" the", " c", " d"], [" e", " f", " the"]] * 3, [[0, 9, 0], [9, 0, 0], [0, 0, 9]] * 3
    )
    assert otherwise == 0 and rules[0][0] == 9.0 and len(rules) == 1 and "the" in rules[0][1][0]


def test_first_rule_that_holds_counts():
    rules = Rules(((9.0, ("token: digits", 'previous token "$"')), (3.0, ("token: digits",))), 0.5)
    assert rules.levels(["$", "5", "5", "x"]) == [0.5, 9.0, 3.0, 0.5]


def test_noise_gives_no_rules():
    import numpy as np

    random = np.random.default_rng(0)
    words = [f" w{i}" for i in range(60)]
    snippets = [[words[i] for i in random.integers(0, 60, 9)] for _ in range(49)]
    levels = [[int(v) for v in random.integers(0, 10, 9)] for _ in range(49)]
    assert len(learn(snippets, levels)[0]) <= 1


def test_odds_separate_raised_tokens_from_the_background():
    odds = learn_next(["10", "23", "71", "8"], [" a", " b", "مر", " c", ".", " d", "\n", "x"])
    rules = Rules((), 0.0, odds)
    assert rules.odds("99") > 0 > rules.odds(" word")
    assert learn_next([], ["a"]) == ()
