"""What a language model is asked, and how its answers are read. Written for this project.

A snippet is shown as a JSON array of its tokens, so that spaces, line breaks and quotation marks are unmistakable.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from monosem.analysis.evidence.explain.cases import Case
from monosem.analysis.evidence.explain.chat import Request, Unusable
from monosem.analysis.evidence.explain.interpreter import Question

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


def read_explanation(text: str) -> str:
    """The description at the end of the answer."""
    text = _answer(text)
    descriptions = re.findall(r"DESCRIPTION:\s*(.+)", text)
    if not descriptions or not descriptions[-1].strip(" *"):
        raise Unusable("no line that begins with DESCRIPTION:")
    return descriptions[-1].strip(" *")


def _numbered(question: Question) -> str:
    return "\n".join(f"{i}: {_array(tokens)}" for i, tokens in enumerate(question.snippets, 1))


def _ask(question: Question, task: str, shown: str, max_tokens: int) -> Request:
    text = f"Description of the detector: {question.explanation}\n\n{task}\n\n{shown}"
    return Request((("system", _SETTING), ("user", text)), max_tokens)


def simulate(question: Question) -> Request:
    """The request for a level of every token of every snippet."""
    task = (
        "Predict its level on every token of the snippets below: a whole number from 0 (silent) to 9. Most tokens of "
        "most snippets are 0. Answer with one JSON object and nothing else: the number of each snippet with the array "
        'of its levels, one for each token, in order, such as {"1":[0,0,7,0],"2":[0,0,0,0]}.'
    )
    size = sum(len(s) for s in question.snippets)
    return _ask(question, task, _numbered(question), 3 * size + 12 * len(question.snippets) + 50)


def read_simulation(text: str, question: Question) -> list[list[float]]:
    """Levels of every snippet; the whole answer is refused if one snippet is missing or of another length."""
    answer = _json(text, "{", "}")
    out = []
    for i, tokens in enumerate(question.snippets, 1):
        levels = answer.get(str(i)) if isinstance(answer, dict) else None
        if not isinstance(levels, list) or len(levels) != len(tokens):
            raise Unusable(f"snippet {i}: wanted {len(tokens)} levels")
        if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and 0 <= v <= 10 for v in levels):
            raise Unusable(f"snippet {i}: levels that are not numbers from 0 to 9")
        out.append([float(v) for v in levels])
    return out


def detect(question: Question) -> Request:
    """The request for the snippets in which the feature is active."""
    task = (
        "In which of these snippets is it active on at least one token? Answer with one JSON array of their numbers "
        "and nothing else, such as [2,5,6]; [] if in none."
    )
    return _ask(question, task, _numbered(question), 6 * len(question.snippets) + 50)


def fuzz(question: Question) -> Request:
    """The request for the snippets whose marks are right."""
    task = (
        "In each of these snippets the detector is active, and some tokens are marked: «token». In some snippets the "
        "marked tokens are those on which it is active, in others the marks were put on other tokens. In which are the "
        "marks right? Answer with one JSON array of their numbers and nothing else, such as [2,5,6]; [] if in none."
    )
    shown = "\n".join(
        f"{i}: {_array([f'«{t}»' if j in marked else t for j, t in enumerate(tokens)])}"
        for i, (tokens, marked) in enumerate(zip(question.snippets, question.marked, strict=True), 1)
    )
    return _ask(question, task, shown, 6 * len(question.snippets) + 50)


def plausible(question: Question) -> Request:
    """The request for the candidates that are likely next tokens."""
    task = (
        "Suppose that it is active on the last token read. Which of these tokens does it make more likely to come "
        "next? Some of them it does, the others were drawn at random from the vocabulary. Answer with one JSON array "
        "of their numbers and nothing else, such as [2,5,6]; [] for none."
    )
    shown = "\n".join(f"{i}: {json.dumps(t, ensure_ascii=False)}" for i, t in enumerate(question.snippets[0], 1))
    return _ask(question, task, shown, 6 * len(question.snippets[0]) + 50)


def read_choice(text: str, count: int) -> list[bool]:
    """Which of ``count`` numbered things were named."""
    answer = _json(text, "[", "]")
    if not isinstance(answer, list) or not all(isinstance(v, int) and not isinstance(v, bool) for v in answer):
        raise Unusable("wanted an array of numbers")
    if any(not 1 <= v <= count for v in answer):
        raise Unusable(f"numbers outside 1 … {count}")
    named = set(answer)
    return [i in named for i in range(1, count + 1)]


def _json(text: str, opening: str, closing: str) -> Any:
    """The JSON value between the first opening and the last closing bracket: models like to add words or a fence."""
    text = _answer(text)
    start, end = text.find(opening), text.rfind(closing)
    if start < 0 or end < start:
        raise Unusable(f"no JSON between {opening} and {closing}")
    try:
        return json.loads(text[start : end + 1])
    except json.JSONDecodeError as error:
        raise Unusable(f"not JSON: {error}") from None


def _answer(text: str) -> str:
    """What stands after a model's thoughts, where it writes them into its answer."""
    return text.rpartition("</think>")[2]
