"""Levels and choices read from the probabilities of tokens, in the forms in which servers send them."""

import json
from math import log

import pytest
from endpoint import Endpoint, full, oracle

pytest.importorskip("httpx")

from monosem.analysis.evidence.explain import measure, prompts
from monosem.analysis.evidence.explain.brief import BRIEF, read_level
from monosem.analysis.evidence.explain.chat import Chat, Unusable
from monosem.analysis.evidence.explain.completion import Answer, Token, read_completion
from monosem.analysis.evidence.explain.interpreter import Question
from monosem.analysis.evidence.explain.language_model import ModelInterpreter
from monosem.analysis.evidence.explain.probability import levels_at, yes
from monosem.analysis.evidence.explain.prompts import FULL, Read

# What llama-cpp-python 0.3.36 answered with SmolLM2-135M-Instruct to "Is the sky blue?", five alternatives asked for.
REAL = """{"id":"chatcmpl-3e78d456-9dec-42a6-a91d-f8301f52c144","object":"chat.completion","created":1795883602,
"model":"m","choices":[{"index":0,"message":{"content":"No","role":"assistant"},"logprobs":{"content":[{"token":"No",
"logprob":-1.6082334518432617,"bytes":null,"top_logprobs":[{"token":"No","logprob":-1.6082334518432617,"bytes":null},
{"token":"Yes","logprob":-1.8203325271606445,"bytes":null},{"token":"The","logprob":-2.4516992568969727,"bytes":null},
{"token":"I","logprob":-2.6569948196411133,"bytes":null},{"token":"Is","logprob":-2.7360658645629883,"bytes":null}]}],
"refusal":null},"finish_reason":"stop"}],"usage":{"prompt_tokens":44,"completion_tokens":1,"total_tokens":45}}"""


def tokens(*given):
    return tuple(Token(t, tuple((a, log(p)) for a, p in top.items())) for t, top in given)


def test_a_real_answer_is_read():
    answer, usage = read_completion(REAL.encode(), 8)
    assert answer.text == "No" and not answer.cut and usage == {"prompt_tokens": 44, "completion_tokens": 1}
    assert [a for a, _ in answer.tokens[0].top] == ["No", "Yes", "The", "I", "Is"]
    # 1 / (1 + exp(1.8203 - 1.6082)): two of the alternatives are a yes or a no
    assert prompts.read_words(answer, 1) == Read([pytest.approx(0.44717, abs=1e-4)], 1, 0)
    again = Answer.from_dict(json.loads(json.dumps(answer.to_dict())))
    assert again == answer and again.tokens[0].top[1] == ("Yes", -1.8203)  # the cache changes nothing


def test_both_forms_of_log_probabilities_are_read_and_others_are_none():
    content = [{"token": "7", "logprob": -0.1, "top_logprobs": [{"token": "7", "logprob": -0.1}]}]
    lists = {"tokens": ["7"], "token_logprobs": [-0.1], "top_logprobs": [{"7": -0.1}]}
    read = lambda logprobs: (
        read_completion(json.dumps({"choices": [{"message": {"content": "7"}, "logprobs": logprobs}]}).encode())[
            0
        ].tokens
    )
    assert read({"content": content}) == read(lists) == (Token("7", (("7", -0.1),)),)
    sampled = [{"token": "7", "logprob": -9.0, "top_logprobs": [{"token": "0", "logprob": -0.1}]}]
    assert read({"content": sampled})[0].top == (("0", -0.1), ("7", -9.0))  # the chosen one is not in the list
    for none in (
        None,
        {},
        [],
        "x",
        {"content": []},
        {"content": [3]},
        {"content": [content[0] | {"top_logprobs": [{"token": "0", "logprob": "x"}]}]},
        {"content": [content[0] | {"top_logprobs": [{"token": "0", "logprob": 2.0}]}]},
        {"content": [content[0] | {"token": None}]},
        {"content": [content[0] | {"token": "\ud800"}]},
        lists | {"tokens": ["7", "8"]},
    ):
        assert read(none) is None, none


def test_tokens_are_placed_in_the_text():
    thought = tokens(("think", {"think": 1.0}), (" a", {" a": 1.0}), ("bc", {"bc": 1.0}), (" ", {" ": 1.0}))
    assert [(at, t.text) for at, t in Answer("abc", thought).placed()] == [(-1, " a"), (1, "bc")]
    assert Answer("xyz", thought).placed() == [] and Answer("abc").placed() == []


def test_the_expected_level_is_over_the_alternatives_that_are_levels():
    answer = Answer(
        '{"1":[0, 10]}',
        tokens(
            ('{"1":[', {'{"1":[': 1.0}),
            ("0", {"0": 0.5, "8": 0.25, "x": 0.2, "77": 0.05}),
            (",", {",": 1.0}),
            (" 10", {" 10": 0.4, " 5": 0.4, "3": 0.2}),
            ("]}", {"]}": 1.0}),
        ),
    )
    question = Question("numbers", (("a", "b"),))
    read = prompts.read_simulation(answer, question)
    assert read.values[0] == pytest.approx([8 * 0.25 / 0.75, 7.5]) and (read.given, read.written) == (2, 0)
    assert levels_at(answer, [(0, 1), (-1, -1)]) == [None, None]
    spread = Answer("10", tokens(("1", {"1": 1.0}), ("0", {"0": 1.0})))
    assert levels_at(spread, [(0, 2)]) == [None]  # the number is spread over two tokens
    assert prompts.read_simulation(Answer(answer.text), question) == Read([[0.0, 10.0]], 0, 2)


def test_a_yes_counts_however_it_is_written():
    (token,) = tokens((" yes", {" yes": 0.3, "Yes.": 0.1, "NO": 0.2, "not": 0.3, "yesterday": 0.1}))
    assert yes(token) == pytest.approx(0.4 / 0.6)
    assert yes(tokens(("maybe", {"maybe": 1.0}))[0]) is None


def test_words_are_read_one_for_each():
    lines = Answer(
        "1: no\n2: Yes",
        tokens(
            ("1:", {"1:": 1.0}),
            (" no", {" no": 0.6, " yes": 0.2}),
            ("\n2:", {"\n2:": 1.0}),
            (" Yes", {" Yes": 0.9, " no": 0.1}),
        ),
    )
    assert prompts.read_words(lines, 2) == Read([pytest.approx(0.25), pytest.approx(0.9)], 2, 0)
    assert prompts.read_words(Answer("1: no\n2. **Yes**, clearly"), 2) == Read([0.0, 1.0], 0, 2)
    assert prompts.read_words(Answer("<think>no</think>Yes."), 1) == Read([1.0], 0, 1)
    unsure = Answer("The", tokens(("The", {"The": 0.7, "Yes": 0.2, "No": 0.1})))
    assert prompts.read_words(unsure, 1) == Read([pytest.approx(2 / 3)], 1, 0)
    for bad, count in (("1: no", 2), ("1: no\n2: perhaps", 2), ("3: no\n1: no", 2), ("perhaps", 1), ("", 1)):
        with pytest.raises(Unusable):
            prompts.read_words(Answer(bad), count)


def test_one_level_is_read():
    question = Question("numbers", (("a",),))
    assert read_level(Answer(" 7."), question) == Read([7.0], 0, 1)
    given = Answer(" 7", tokens((" ", {" ": 1.0}), ("7", {"7": 0.5, "1": 0.5})))
    assert read_level(given, question) == Read([pytest.approx(4.0)], 1, 0)
    other = Answer("The", tokens(("The", {"The": 0.8, "2": 0.1, "4": 0.1})))
    assert read_level(other, question) == Read([pytest.approx(3.0)], 1, 0)
    for bad in ("", "none", "77", "-"):
        with pytest.raises(Unusable):
            read_level(Answer(bad), question)


# --- whole runs ---------------------------------------------------------------------------------------------------


def unsure(body):
    """The oracle, sure of nothing: it writes 0 and no everywhere, and what it knows is in the probabilities alone."""
    text = oracle(body)
    if not body.get("logprobs"):
        return text
    message = body["messages"][-1]["content"]
    if "Description" not in message:
        return "yes", [("yes", {"yes": -0.1, "no": -2.4})]
    if "Predict its level" in message:
        return _written(
            [
                (f'"{n}":[', [("0", {"0": 0.7, str(v or 1): 0.02 * v + 0.01}) for v in levels])
                for n, levels in json.loads(text).items()
            ]
        )
    named = set(json.loads(text)) if text.startswith("[") else set()
    count = len([line for line in message.splitlines() if line.split(":")[0].isdigit()])
    out = []
    for n in range(1, count + 1):
        out += [
            (f"{n}:", {f"{n}:": 1.0}),
            (" no", {" no": 0.5, " yes": 0.6 if n in named else 0.1}),
            ("\n", {"\n": 1.0}),
        ]
    return _joined(out)


def _written(snippets):
    out = [("{", {"{": 1.0})]
    for i, (head, levels) in enumerate(snippets):
        out.append((head if not i else "," + head, {}))
        for j, level in enumerate(levels):
            out += [(",", {})] * bool(j) + [level]
        out.append(("]", {}))
    return _joined([*out, ("}", {})])


def _joined(out):
    return "".join(t for t, _ in out), [(t, {a: log(p) for a, p in ({t: 1.0} | top).items()}) for t, top in out]


def who(server, folder, style=FULL, **options):
    return ModelInterpreter(Chat(server.url, "m", folder, progress=False, backoff=0.01, timeout=20), style, **options)


@pytest.mark.parametrize("form", ["chat", "completion"])
def test_probabilities_say_more_than_the_written_answer(ruled, tmp_path, form):
    case = ruled[3]["graded"]
    with Endpoint(unsure, form=form) as server:
        asked = who(server, tmp_path)
        result = measure([case], asked)
        (item,) = result.items
        assert item.scores["simulation"] > 0.95 and item.scores["detection"] == 1.0, item.scores
        assert item.auc["detection"] == item.auc["fuzzing"] == 1.0 and item.auc["logits"] >= 0.95
        size = sum(len(s.tokens) for s in case.test)
        assert result.answers["logprobs"] and result.answers["simulation"] == {"logprobs": size, "written": 0}
        plain = result.to_dict()
        assert plain["answers"] == result.answers and plain["kinds"]["neurons"]["auc"]["detection"]["median"] == 1.0
        assert "read from log-probabilities" in result.table() and "AUC" in result.table()
        body = server.bodies[-1]
        assert (body["logprobs"], body["top_logprobs"]) == (True, 20) and "logprobs" not in server.bodies[0]
        count = len(server.bodies)
        assert measure([case], who(server, tmp_path)).to_dict() == plain and len(server.bodies) == count
        # Asked without them, the same questions are others to the cache, and the answers are as they are written.
        written = measure([case], who(server, tmp_path, logprobs=False))
        assert len(server.bodies) == count + 4 and written.items[0].auc == {}
        assert "as written, because log-probabilities were not asked for" in written.table()


@pytest.mark.parametrize("status", [400, 500])
def test_an_endpoint_that_refuses_them_is_asked_without(ruled, tmp_path, status):
    def refuses(body):
        if "logprobs" in body:  # the words of llama-cpp-python without logits_all
            return status, {"message": "logprobs is not supported for models created with logits_all=False"}
        return oracle(body)

    case = ruled[3]["graded"]
    with Endpoint(refuses) as server:
        result = measure([case], who(server, tmp_path))
        assert len(server.bodies) == 7  # the question for them, with and without, and five
        assert result.items[0].scores["simulation"] > 0.95 and "logits_all=False" in result.answers["why"]
        with pytest.raises(ValueError, match=r"logprobs: wanted, but the endpoint refuses.*logits_all"):
            who(server, tmp_path, logprobs=True).explain([case])


def test_an_endpoint_that_ignores_them_is_read_as_written(ruled, tmp_path):
    case = ruled[3]["graded"]
    with Endpoint(oracle) as server:
        asked = who(server, tmp_path)
        result = measure([case], asked)
        assert result.items[0].scores["detection"] == 1.0 and not result.items[0].auc
        assert result.answers["why"] == "the endpoint gives no log-probabilities"
        assert who(server, tmp_path).estimate([case]).requests == 0


def test_a_key_among_the_tokens_is_not_stored(tmp_path):
    def tells(body):
        return "sk-12345678", [("sk-", {"sk-": 0.0}), ("12345678", {"12345678": 0.0})]

    with Endpoint(tells) as server:
        with Chat(server.url, "m", tmp_path, api_key="sk-12345678", progress=False) as chat:
            chat.offers_logprobs()
        assert not any("1234" in f.read_text() for f in tmp_path.iterdir())


def brief(body):
    """The oracle for one thing at a time: a number is found, above all after $."""
    text = body["messages"][-1]["content"]
    if not text.startswith("It finds"):
        return "numbers, above all after $\nand more"
    shown = text.split("Text: ", 1)[1]
    task = body["messages"][0]["content"]
    if "one digit" in task:
        found = 9 if shown[-1:].isdigit() and "$" in shown else 2 if shown[-1:].isdigit() else 0
        return str(found), [(str(found), {str(found): log(0.9), "9": log(0.9)} if found == 9 else {str(found): 0.0})]
    inside = shown.split("«")[1].split("»")[0] if "marked" in task else shown
    return "yes" if any(c.isdigit() for c in inside) else "no"


def test_brief_questions_are_about_one_thing_each(ruled, tmp_path):
    case = ruled[3]["graded"]
    with Endpoint(brief) as server:
        asked = who(server, tmp_path, BRIEF)
        estimate = asked.estimate([case])
        result = measure([case], asked)
        # Two texts may begin with the same tokens: the second is answered from the disk.
        assert estimate.requests - 30 < len(server.bodies) <= estimate.requests and estimate.requests > 600
        item = result.items[0]
        assert item.explanation == "numbers, above all after $" and not item.failed
        assert item.scores["simulation"] > 0.9 and item.scores["detection"] > 0.9 and item.scores["logits"] > 0.9
        assert max(len(m["content"]) for b in server.bodies for m in b["messages"]) < 2500


def test_a_request_too_long_for_the_context_is_halved(ruled, tmp_path):
    case = ruled[3]["graded"]
    room = len(prompts.detect(Question("numbers", tuple(s.tokens for s in case.test)), False).messages[-1][1]) // 2

    def answer(body):
        refusal = full(room)(body)
        return (
            refusal if isinstance(refusal, tuple) and "Description" in body["messages"][-1]["content"] else oracle(body)
        )

    with Endpoint(answer) as server:
        result = measure([case], who(server, tmp_path, logprobs=False))
        assert result.items[0].scores["simulation"] > 0.95 and not result.items[0].failed
        assert result.answers["simulation"]["halved"] >= 3
