"""The interpreter that asks a model: prompts, how answers are read, and a whole run against a made-up model."""

import json

import pytest
from endpoint import Endpoint, oracle

pytest.importorskip("httpx")

from monosem.analysis.evidence.explain import measure, prompts
from monosem.analysis.evidence.explain.chat import Chat, Unusable
from monosem.analysis.evidence.explain.completion import Answer
from monosem.analysis.evidence.explain.interpreter import Question
from monosem.analysis.evidence.explain.language_model import ModelInterpreter
from monosem.analysis.evidence.explain.prompts import Read

QUESTION = Question("numbers", ((" a", "1"), ("«", "\n", "2")), ((1,), (0, 2)))


def test_an_explanation_is_the_last_description():
    read = lambda text: prompts.read_explanation(Answer(text))
    assert read("so\nDESCRIPTION: first\nno:\n**DESCRIPTION: digits; more follow**") == ("digits; more follow")
    assert read("<think>DESCRIPTION: hm</think>DESCRIPTION: ok") == "ok"
    for bad in ("", "description of it", "DESCRIPTION:  "):
        with pytest.raises(Unusable):
            read(bad)


def test_a_simulation_is_read_whole_or_not_at_all():
    good = 'Here:\n```json\n{"1": [0, 9], "2": [0, 0, 3.5]}\n```'
    assert prompts.read_simulation(Answer(good), QUESTION) == Read([[0.0, 9.0], [0.0, 0.0, 3.5]], 0, 5)
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
            prompts.read_simulation(Answer(bad), QUESTION)


def test_a_choice_is_an_array_of_known_numbers():
    read = lambda text, count: prompts.read_choice(Answer(text), count).values
    assert read("[1, 3]", 3) == [1, 0, 1] and read("none: []", 2) == [0, 0]
    for bad in ("[4]", "[0]", '["1"]', "[true]", "1, 2", "{}"):
        with pytest.raises(Unusable):
            read(bad, 3)


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


def interpreter(server, folder):
    return ModelInterpreter(Chat(server.url, "oracle", folder, progress=False, backoff=0.01, timeout=20))


def test_a_model_that_knows_the_rule_scores_high(ruled, tmp_path):
    case = ruled[3]["graded"]
    with Endpoint(oracle) as server:
        who = interpreter(server, tmp_path)
        before = who.estimate([case])
        assert (before.requests, before.cached) == (6, 0) and before.prompt_tokens > 3000
        assert len(server.bodies) == 0
        result = measure([case], who)
        assert len(server.bodies) == 6
        scores = result.items[0].scores
        assert scores["simulation"] > 0.95 and scores["weighted"] > 0.9, scores
        assert scores["detection"] == scores["fuzzing"] == 1.0 and scores["logits"] >= 0.95
        assert result.items[0].explanation == "numbers, above all after $" and result.interpreter == "oracle"
        assert who.estimate([case]).requests == 0 and who.estimate([case]).cached == 5
        assert interpreter(server, tmp_path).estimate([case]).cached == 6
        assert measure([case], who).to_dict() == result.to_dict() and len(server.bodies) == 6
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
        assert result.items[0].scores["logits"] >= 0.95 and len(server.bodies) == 8  # the simulation three times
