"""Questions for a small model, or one with a short context: some examples, then about one token or snippet at a time.

Every answer is one line, one digit or one word, so that a model of 0.1 billion parameters can give it, and its
probability can be read where the endpoint gives one. The price is a request for each of the 60 × 9 tokens, each snippet
and each candidate; most of a request is the same as in the one before, which servers keep. Written for this project.
"""

from __future__ import annotations

import json
import re

from monosem.analysis.evidence.explain.cases import Case, Snippet
from monosem.analysis.evidence.explain.chat import Request, Unusable
from monosem.analysis.evidence.explain.completion import Answer
from monosem.analysis.evidence.explain.interpreter import Question
from monosem.analysis.evidence.explain.probability import expected
from monosem.analysis.evidence.explain.prompts import Read, Style, after_thoughts, read_words
from monosem.analysis.evidence.explain.scoring import MARK

_SHOWN = 12  # examples that an explanation is made from: evenly spaced over the ranking of the active ones
_WORDS = 40
_NEXT = "more likely next:"

_EXPLAIN = (
    "A detector is active on some tokens of a text. You see texts in which it is active, each followed by the tokens "
    "on which it is active, and the tokens that it makes more likely to come next. Say in a few words, on one line, "
    "what the active tokens have in common."
)
_EXPLAINED = (
    (
        f'I paid $45 for it → "45"\nabout €3.50 each → "3"\ncosts £120 a day → "120"\n{_NEXT} " million", " per", ","',
        "a number after a currency sign",
    ),
    (
        f'これは本です → "これ", "は", "です"\nis the 都の → "の"\n話を聞く → "を", "く"\n{_NEXT} "は", "が", "に"',
        "Japanese text, above all kana",
    ),
    (
        f'if (x == 0) {{ → " =="\nwhile n != 3: → " !="\nassert a >= b → " >="\n{_NEXT} " 0", " null", " None"',
        "an operator that compares two values in code",
    ),
)

_LEVEL = (
    "A detector reads a text token by token. You are told what it finds, and the text up to some token. Answer with "
    "one digit, its level on the last token: 0 where it finds nothing, up to 9 where it is most active."
)
_LEVELS = (
    ("a number after a currency sign", "paid $45", "9"),
    ("a number after a currency sign", "paid $45 for", "0"),
    ("Japanese text, above all kana", "the map of 次", "5"),
    ("an operator that compares two values in code", "page 3 of the", "0"),
)

_ACTIVE = "A detector reads a text. You are told what it finds. Is it in the text? Answer with one word, yes or no."
_ACTIVES = (
    ("a number after a currency sign", "paid $45 for", "yes"),
    ("Japanese text, above all kana", "the end of the year", "no"),
    ("an operator that compares two values in code", "if x == 0", "yes"),
    ("a number after a currency sign", "on page 45 of", "no"),
)

_RIGHT = (
    "A detector finds something in a text, and some tokens are marked: «token». You are told what it finds. Are the "
    "marked tokens what it finds? Answer with one word, yes or no."
)
_RIGHTS = (
    ("a number after a currency sign", "paid $«45» for", "yes"),
    ("Japanese text, above all kana", "«the map» of 次の", "no"),
    ("an operator that compares two values in code", "if x« ==» 0", "yes"),
    ("a number after a currency sign", "«paid» $45 for", "no"),
)

_FOLLOWS = (
    "A detector was active on the last token of a text. You are told what it finds. Is this token likely to come next? "
    "Answer with one word, yes or no."
)
_FOLLOW = (
    ("a number after a currency sign", '" million"', "yes"),
    ("Japanese text, above all kana", '" theorem"', "no"),
    ("an operator that compares two values in code", '" null"', "yes"),
    ("a number after a currency sign", '"ография"', "no"),
)


def explain(case: Case) -> Request:
    """The request for an explanation: twelve active examples, with the tokens on which the feature is active."""
    active = sorted((s for s in case.explain if s.active), key=lambda s: -max(s.values))
    count = min(_SHOWN, len(active))
    chosen = [active[round(i * (len(active) - 1) / max(1, count - 1))] for i in range(count)]
    lines = [_example(s) for s in chosen] + [f"{_NEXT} {', '.join(map(_quote, case.positive))}"]
    return _talk(_EXPLAIN, _EXPLAINED, "\n".join(lines), 60, False)


def _example(s: Snippet) -> str:
    least = MARK * max(s.values)
    found = ", ".join(_quote(t) for t, v in zip(s.tokens, s.values, strict=True) if v >= least and v > 0)
    return f"{_flat(s.tokens)} → {found}"


def read_explanation(answer: Answer) -> str:
    """The first line of the answer, at most 40 words of it."""
    line = next((x.strip() for x in answer.text[after_thoughts(answer.text) :].splitlines() if x.strip()), "")
    if not line:
        raise Unusable("an empty answer")
    return " ".join(line.removeprefix("DESCRIPTION:").split()[:_WORDS])


def simulate(question: Question, logprobs: bool = False) -> Request:
    """The request for the level of the last token of a text."""
    return _about(question, _LEVEL, _LEVELS, _flat(question.snippets[0]), logprobs)


def read_level(answer: Answer, question: Question) -> Read:
    """The level of one token: the expected one where probabilities are given."""
    begin = after_thoughts(answer.text)
    number = re.match(r"\W*(\d{1,2})\b", answer.text[begin:], re.ASCII)
    at = begin + number.start(1) if number else begin
    # Where something else was likelier than a number, the probabilities of numbers are those of its first token.
    later = [(p, t) for p, t in answer.placed() if p + len(t.text) > at and (number or t.text.strip())]
    level = expected(later[0][1], max(0, at - later[0][0])) if later else None
    if level is not None:
        return Read([level], 1, 0)
    if number is None or int(number[1]) > 10:
        raise Unusable("no level from 0 to 9")
    return Read([float(number[1])], 0, 1)


def detect(question: Question, logprobs: bool = False) -> Request:
    """The request whether the feature is active in a snippet."""
    return _about(question, _ACTIVE, _ACTIVES, _flat(question.snippets[0]), logprobs)


def fuzz(question: Question, logprobs: bool = False) -> Request:
    """The request whether the marks of a snippet are right."""
    marked = [f"«{t}»" if i in question.marked[0] else t for i, t in enumerate(question.snippets[0])]
    return _about(question, _RIGHT, _RIGHTS, _flat(marked).replace("»«", ""), logprobs)


def plausible(question: Question, logprobs: bool = False) -> Request:
    """The request whether a token is likely to come next."""
    return _about(question, _FOLLOWS, _FOLLOW, _quote(question.snippets[0][0]), logprobs)


def _read_word(answer: Answer, question: Question, logprobs: bool) -> Read:
    return read_words(answer, 1)


def _about(
    question: Question, task: str, examples: tuple[tuple[str, str, str], ...], shown: str, logprobs: bool
) -> Request:
    ask = lambda finds, text: f"It finds: {finds}\nText: {text}"
    return _talk(task, tuple((ask(f, t), a) for f, t, a in examples), ask(question.explanation, shown), 4, logprobs)


def _talk(task: str, examples: tuple[tuple[str, str], ...], last: str, max_tokens: int, logprobs: bool) -> Request:
    messages = [("system", task)]
    for shown, answer in examples:
        messages += [("user", shown), ("assistant", answer)]
    return Request((*messages, ("user", last)), max_tokens, logprobs)


def _flat(tokens: tuple[str, ...] | list[str]) -> str:
    """Text on one line: line breaks are shown as they are written in code."""
    return "".join(tokens).replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t").strip(" ")


def _quote(token: str) -> str:
    return json.dumps(token, ensure_ascii=False)


BRIEF = Style(
    name="brief",
    explain=explain,
    read_explanation=read_explanation,
    simulate=simulate,
    read_simulation=read_level,
    detect=detect,
    fuzz=fuzz,
    plausible=plausible,
    read_choice=_read_word,
    per_request=1,
    by_token=True,
)
