"""The interpreter that asks a model: prompts, how answers are read, and a whole run against a made-up model."""

import json
import re

import pytest
from endpoint import Endpoint

pytest.importorskip("httpx")

from monosem.analysis.evidence.explain import measure, prompts
from monosem.analysis.evidence.explain.chat import Chat, Unusable
from monosem.analysis.evidence.explain.interpreter import Question
from monosem.analysis.evidence.explain.language_model import ModelInterpreter

QUESTION = Question("numbers", ((" a", "1"), ("«", "\n", "2")), ((1,), (0, 2)))


def test_an_explanation_is_the_last_description():
    assert prompts.read_explanation("so\nDESCRIPTION: first\nno:\n**DESCRIPTION: digits; more follow**") == (
        "digits; more follow"
    )
    assert prompts.read_explanation("<think>DESCRIPTION: hm</think>DESCRIPTION: ok") == "ok"
    for bad in ("", "description of it", "DESCRIPTION:  "):
        with pytest.raises(Unusable):
            prompts.read_explanation(bad)


def test_a_simulation_is_read_whole_or_not_at_all():
    good = 'Here:\n```json\n{"1": [0, 9], "2": [0, 0, 3.5]}\n```'
    assert prompts.read_simulation(good, QUESTION) == [[0.0, 9.0], [0.0, 0.0, 3.5]]
    for bad in (
        '{"1": [0, 9]}',
        '{"1": [0], "2": [0, 0, 3]}',
        '{"1": [0, "9"], "2": [0, 0, 3]}',
        '{"1": [0, -1], "2": [0, 0, 3]}',
        '{"1": [0, true], "2": [0, 0, 3]}',
        '{"1": [0, 9], "2": [0, 0',
        "[]",
        "I cannot",
    ):
        with pytest.raises(Unusable):
            prompts.read_simulation(bad, QUESTION)


def test_a_choice_is_an_array_of_known_numbers():
    assert prompts.read_choice("[1, 3]", 3) == [True, False, True] and prompts.read_choice("none: []", 2) == [False] * 2
    for bad in ("[4]", "[0]", '["1"]', "[true]", "1, 2", "{}"):
        with pytest.raises(Unusable):
            prompts.read_choice(bad, 3)


def test_the_explain_request_shows_every_snippet_strongest_first(ruled):
    case = ruled[3]["graded"]
    request = prompts.explain(case)
    shown = request.messages[-1][1].splitlines()
    assert len(shown) == 51 and shown[0].startswith("level 9: [[")
    snippets = [json.loads(line.split(": ", 1)[1]) for line in shown[:-2]]
    assert {tuple(t for t, _ in s) for s in snippets} == {s.tokens for s in case.explain}
    assert max(level for _, level in snippets[0]) == 9
    assert json.loads(shown[-2].removeprefix("more likely next: ")) == list(case.positive)
    text = prompts.simulate(QUESTION).messages[-1][1]
    assert '1: [" a","1"]' in text and '2: ["«","\\n","2"]' in text and "numbers" in text
    assert '["««»","\\n","«2»"]' in prompts.fuzz(QUESTION).messages[-1][1]


def oracle(body):
    """A model that knows: numbers after a dollar sign 9, other numbers 2; it answers in each of the asked forms."""
    text = body["messages"][-1]["content"]
    if "Description of the detector" not in text:
        return "Prices.\nDESCRIPTION: numbers, above all after $"
    lines = re.findall(r"^(\d+): (.+)$", text, re.M)
    if "Predict its level" in text:
        levels = {
            n: [(9 if i and t[i - 1] == "$" else 2) if w.isdigit() else 0 for i, w in enumerate(t)]
            for n, t in ((n, json.loads(line)) for n, line in lines)
        }
        return json.dumps(levels)
    if "come next" in text:
        return str([int(n) for n, line in lines if json.loads(line).isdigit()])
    if "marked" in text:
        return str([int(n) for n, line in lines if all(w[1:-1].isdigit() for w in json.loads(line) if w[0] == "«")])
    return str([int(n) for n, line in lines if any(w.isdigit() for w in json.loads(line))])


def interpreter(server, folder):
    return ModelInterpreter(Chat(server.url, "oracle", folder, progress=False, backoff=0.01, timeout=20))


def test_a_model_that_knows_the_rule_scores_high(ruled, tmp_path):
    case = ruled[3]["graded"]
    with Endpoint(oracle) as server:
        who = interpreter(server, tmp_path)
        before = who.estimate([case])
        assert (before.requests, before.cached) == (5, 0) and before.prompt_tokens > 3000
        assert len(server.bodies) == 0
        result = measure([case], who)
        assert len(server.bodies) == 5
        scores = result.items[0].scores
        assert scores["simulation"] > 0.95 and scores["weighted"] > 0.9, scores
        assert scores["detection"] == scores["fuzzing"] == 1.0 and scores["logits"] >= 0.95
        assert result.items[0].explanation == "numbers, above all after $" and result.interpreter == "oracle"
        assert who.estimate([case]).requests == 0 and who.estimate([case]).cached == 5
        assert measure([case], who).to_dict() == result.to_dict() and len(server.bodies) == 5
        who.chat.close()


def test_unusable_simulations_are_counted_as_failed(ruled, tmp_path):
    case = ruled[3]["graded"]

    def careless(body):
        good = oracle(body)
        return good[:-9] if good.startswith("{") else good

    with Endpoint(careless) as server:
        who = interpreter(server, tmp_path)
        result = measure([case], who)
        who.chat.close()
        assert result.items[0].failed == ["simulation"] and result.items[0].scores["simulation"] is None
        assert result.items[0].scores["logits"] >= 0.95 and len(server.bodies) == 7  # the simulation three times
