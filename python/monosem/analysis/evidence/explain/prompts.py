"""What a language model is asked, and how its answers are read. Written for this project.

A snippet is shown as a JSON array of its tokens, so that spaces, line breaks and quotation marks are unmistakable.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from monosem.analysis.evidence.explain.cases import Case
from monosem.analysis.evidence.explain.chat import Request, Unusable
from monosem.analysis.evidence.explain.completion import Answer
from monosem.analysis.evidence.explain.interpreter import Question
from monosem.analysis.evidence.explain.probability import levels_at, yes, yes_at

_SETTING = (
    "You study a small language model. It reads text token by token and contains detectors: numbers that are 0 on most "
    "tokens and rise where the detector finds what it reacts to. A detector sees a token and what came before it, "
    "never what comes after. Text may be in any language or be code, markup, DNA or encoded data; ⟨D8⟩ stands for a "
    "byte that is part of a character."
)

_EXPLAIN = (
    _SETTING
    + "\n\nYou get snippets of text with the detector's level on each token, from 0 (silent) to 9 (its maximum), and "
    "the tokens that the detector makes most and least likely to come next. Find the shortest description that "
    "predicts the levels: what the active tokens have in common, in which contexts they are active and in which the "
    "same tokens are silent, and what tends to come next. Judge by all levels, not only by the strongest. Describe "
    "the pattern; do not enumerate tokens, unless a single token or two are the pattern.\n\n"
    "First think aloud in a few sentences. Then give the description, at most 40 words, on a last line of its own that "
    "begins with DESCRIPTION:"
)

# (what is shown, what a good answer looks like): four made-up detectors of different kinds.
_EXAMPLES = (
    (
        'level 9: [["paid",0],[" $",0],["45",9],[" for",0]]\nlevel 6: [["about",0],[" €",0],["3",6],[".",0]]\n'
        'level 0: [["page",0],[" 45",0],[" of",0]]\nmore likely next: [" million", " per", ",", ".", " billion"]',
        "Numbers are active after a currency sign and silent elsewhere; 45 appears both ways. Prices continue with "
        "multipliers and punctuation.\nDESCRIPTION: the number directly after a currency sign, in any currency; "
        "units, multipliers or decimal points follow",
    ),
    (
        'level 9: [[" the",0],[" 次",0],["の",9]]\nlevel 5: [["東",4],["京",5],["都",3]]\n'
        'level 0: [["中",0],["国",0],["的",0]]\nmore likely next: ["は", "が", "に"]',
        "Only Japanese text is active: Chinese characters in Chinese sentences are not, and kana are strongest."
        "\nDESCRIPTION: text in Japanese, strongest on kana; Japanese particles follow",
    ),
    (
        'level 9: [["if",0],[" (",0],["x",0],[" ==",9]]\nlevel 8: [["while",0],[" n",0],[" !=",8]]\n'
        'level 0: [["x",0],[" =",0],[" 3",0]]\nmore likely next: [" 0", " null", " None", " \\""]',
        "Comparison signs, not assignments.\nDESCRIPTION: operators that compare two values in program code; a "
        "constant follows",
    ),
    (
        'level 9: [["Dr",9],[".",2]]\nlevel 7: [["Mrs",7],[".",1]]\nlevel 0: [["etc",0],[".",0]]\n'
        'more likely next: [".", " Smith", " J"]',
        "Titles before names; other abbreviations are silent.\nDESCRIPTION: a title in front of a person's name "
        "(Dr, Mrs); the full stop or the name follows",
    ),
)


def _array(tokens: Sequence[Any]) -> str:
    return json.dumps(list(tokens), ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class Read:
    """What was read from an answer: one value for each thing that was asked about.

    ``given``: how many numbers come from the probabilities of tokens; ``written``: how many are as they were written.
    """

    values: list[Any]
    given: int = 0
    written: int = 0


@dataclass(frozen=True)
class Style:
    """The questions of one way of asking, and how their answers are read.

    ``per_request``: most snippets in a request; None for all of a feature. ``by_token``: a simulation asks about one
    token at a time, and its snippets are the text up to it.
    """

    name: str
    explain: Callable[[Case], Request]
    read_explanation: Callable[[Answer], str]
    simulate: Callable[[Question, bool], Request]
    read_simulation: Callable[[Answer, Question], Read]
    detect: Callable[[Question, bool], Request]
    fuzz: Callable[[Question, bool], Request]
    plausible: Callable[[Question, bool], Request]
    read_choice: Callable[[Answer, Question, bool], Read]
    per_request: int | None = None
    by_token: bool = False


def explain(case: Case) -> Request:
    """The request for an explanation: every snippet with its levels, the strongest first."""
    lines = []
    for s in sorted(case.explain, key=lambda s: -max(s.values)):
        levels = [case.level(v) for v in s.values]
        lines.append(f"level {max(levels)}: {_array([list(p) for p in zip(s.tokens, levels, strict=True)])}")
    lines.append(f"more likely next: {_array(case.positive)}")
    lines.append(f"less likely next: {_array(case.negative)}")
    messages = [("system", _EXPLAIN)]
    for shown, answer in _EXAMPLES:
        messages += [("user", shown), ("assistant", answer)]
    return Request((*messages, ("user", "\n".join(lines))), 500)


def read_explanation(answer: Answer) -> str:
    """The description at the end of the answer."""
    text = answer.text[after_thoughts(answer.text) :]
    descriptions = re.findall(r"DESCRIPTION:\s*(.+)", text)
    if not descriptions or not descriptions[-1].strip(" *"):
        raise Unusable("no line that begins with DESCRIPTION:")
    return descriptions[-1].strip(" *")


def _numbered(question: Question) -> str:
    return "\n".join(f"{i}: {_array(tokens)}" for i, tokens in enumerate(question.snippets, 1))


def _ask(question: Question, task: str, shown: str, max_tokens: int, logprobs: bool) -> Request:
    text = f"Description of the detector: {question.explanation}\n\n{task}\n\n{shown}"
    return Request((("system", _SETTING), ("user", text)), max_tokens, logprobs)


def simulate(question: Question, logprobs: bool = False) -> Request:
    """The request for a level of every token of every snippet."""
    task = (
        "Predict its level on every token of the snippets below: a whole number from 0 (silent) to 9. Most tokens of "
        "most snippets are 0. Answer with one JSON object and nothing else: the number of each snippet with the array "
        'of its levels, one for each token, in order, such as {"1":[0,0,7,0],"2":[0,0,0,0]}.'
    )
    size = sum(len(s) for s in question.snippets)
    return _ask(question, task, _numbered(question), 3 * size + 12 * len(question.snippets) + 50, logprobs)


def read_simulation(answer: Answer, question: Question) -> Read:
    """Levels of every snippet; the whole answer is refused if one snippet is missing or of another length.

    With log-probabilities, the expected level of each token.
    """
    found, begin = _json(answer.text, "{", "}")
    levels, spans = [], []
    for i, tokens in enumerate(question.snippets, 1):
        own = found.get(str(i)) if isinstance(found, dict) else None
        if not isinstance(own, list) or len(own) != len(tokens):
            raise Unusable("a snippet without one level for each token")
        if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and 0 <= v <= 10 for v in own):
            raise Unusable("levels that are not numbers from 0 to 9")
        levels.append([float(v) for v in own])
        spans += _spans(answer.text, begin, i, len(own))
    expected = levels_at(answer, spans)
    flat = iter(expected)
    values = [[written if (p := next(flat)) is None else p for written in own] for own in levels]
    given = sum(p is not None for p in expected)
    return Read(values, given, len(expected) - given)


def _spans(text: str, begin: int, number: int, count: int) -> list[tuple[int, int]]:
    """Where the levels of a snippet stand in the text: in the last array under its number, the one that counts."""
    arrays = list(re.finditer(rf'"{number}"\s*:\s*\[([^\[\]]*)\]', text[begin:]))
    found = list(re.finditer(r"[^\s,]+", arrays[-1][1])) if arrays else []
    if len(found) != count:
        return [(-1, -1)] * count  # a number written in some other way: taken as it is written
    offset = begin + arrays[-1].start(1)
    return [(offset + m.start(), offset + m.end()) for m in found]


def detect(question: Question, logprobs: bool = False) -> Request:
    """The request for the snippets in which the feature is active."""
    return _choose(
        question,
        "In which of these snippets is it active on at least one token?",
        ("Is it active on at least one token of this snippet?", "Is it active on at least one token of each of these?"),
        _numbered(question),
        logprobs,
    )


def fuzz(question: Question, logprobs: bool = False) -> Request:
    """The request for the snippets whose marks are right."""
    marked = tuple(
        tuple(f"«{t}»" if j in marked else t for j, t in enumerate(tokens))
        for tokens, marked in zip(question.snippets, question.marked, strict=True)
    )
    shown = _numbered(Question(question.explanation, marked))
    return _choose(
        question,
        "In each of these snippets the detector is active, and some tokens are marked: «token». In some snippets the "
        "marked tokens are those on which it is active, in others the marks were put on other tokens. In which are the "
        "marks right?",
        (
            "The detector is active in this snippet, and some tokens are marked: «token». Are the marked tokens those "
            "on which it is active?",
            "The detector is active in each of these snippets, and some tokens are marked: «token». Are the marked "
            "tokens those on which it is active?",
        ),
        shown,
        logprobs,
    )


def plausible(question: Question, logprobs: bool = False) -> Request:
    """The request for the candidates that are likely next tokens."""
    shown = "\n".join(f"{i}: {json.dumps(t, ensure_ascii=False)}" for i, (t,) in enumerate(question.snippets, 1))
    return _choose(
        question,
        "Suppose that it is active on the last token read. Which of these tokens does it make more likely to come "
        "next? Some of them it does, the others were drawn at random from the vocabulary.",
        (
            "Suppose that it is active on the last token read. Does it make this token more likely to come next?",
            "Suppose that it is active on the last token read. Does it make each of these more likely to come next?",
        ),
        shown,
        logprobs,
    )


def _choose(question: Question, which: str, whether: tuple[str, str], shown: str, logprobs: bool) -> Request:
    """A choice among numbered things: an array of their numbers, or a word for each, whose probability can be read.

    ``which``: the question for an array. ``whether``: for words, about one thing and about several.
    """
    count = shown.count("\n") + 1
    if not logprobs:
        form = "Answer with one JSON array of their numbers and nothing else, such as [2,5,6]; [] if in none."
        return _ask(question, f"{which} {form}", shown, 6 * count + 50, False)
    form = "Answer with one word, yes or no."
    if count > 1:
        form = "Answer with one line for each and nothing else: its number, a colon, and yes or no."
    return _ask(question, f"{whether[count > 1]} {form}", shown, 6 * count + 50 if count > 1 else 8, True)


def read_choice(answer: Answer, count: int) -> Read:
    """Which of ``count`` numbered things were named: 1 or 0 for each."""
    named = _json(answer.text, "[", "]")[0]
    if not isinstance(named, list) or not all(isinstance(v, int) and not isinstance(v, bool) for v in named):
        raise Unusable("no array of numbers")
    if any(not 1 <= v <= count for v in named):
        raise Unusable("numbers of things that were not asked about")
    return Read([float(i in named) for i in range(1, count + 1)], 0, count)


def read_words(answer: Answer, count: int) -> Read:
    """The probability of yes for each of ``count`` things; 1 or 0, as written, where none is given."""
    begin = after_thoughts(answer.text)
    if count == 1:
        word = re.match(r"[^\w]*(?:1[^\w]+)?(yes|no)\b", answer.text[begin:], re.IGNORECASE)
        if word is None:  # something else was likelier than either, but their probabilities may be given
            first = next((t for at, t in answer.placed() if at >= begin and t.text.strip()), None)
            share = yes(first) if first is not None else None
            if share is None:
                raise Unusable("neither yes nor no")
            return Read([share], 1, 0)
        words = {1: (begin + word.start(1), word[1])}
    else:
        lines = re.finditer(r"^[^\w\n]*(\d+)[^\w\n]+(yes|no)\b", answer.text[begin:], re.IGNORECASE | re.MULTILINE)
        words = {int(m[1]): (begin + m.start(2), m[2]) for m in lines}
        if set(words) != set(range(1, count + 1)):
            raise Unusable("not one yes or no for each number")
    shares = yes_at(answer, [words[i][0] for i in range(1, count + 1)])
    given = sum(s is not None for s in shares)
    values = [float(words[i][1].lower() == "yes") if s is None else s for i, s in enumerate(shares, 1)]
    return Read(values, given, count - given)


def _json(text: str, opening: str, closing: str) -> tuple[Any, int]:
    """The JSON value between the first opening and the last closing bracket, and where it begins.

    Models like to add words or a fence.
    """
    start = text.find(opening, after_thoughts(text))
    end = text.rfind(closing)
    if start < 0 or end < start:
        raise Unusable(f"no JSON between {opening} and {closing}")
    try:
        return json.loads(text[start : end + 1]), start
    except (json.JSONDecodeError, RecursionError):
        raise Unusable(f"no JSON between {opening} and {closing}") from None


def after_thoughts(text: str) -> int:
    """Where the answer begins, after a model's thoughts if it writes them into its answer."""
    thoughts = text.rfind("</think>")
    return thoughts + len("</think>") if thoughts >= 0 else 0


FULL = Style(
    name="full",
    explain=explain,
    read_explanation=read_explanation,
    simulate=simulate,
    read_simulation=read_simulation,
    detect=detect,
    fuzz=fuzz,
    plausible=plausible,
    read_choice=lambda answer, question, logprobs: (read_words if logprobs else read_choice)(answer, question.size),
)
