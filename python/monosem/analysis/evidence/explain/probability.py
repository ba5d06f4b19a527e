"""What an answer says by the probabilities of its tokens: the expected level, and the probability of a yes.

*Language models can explain neurons in language models* (Bills et al., 2023) simulates with the expected value over the
levels that the model might have written, not with the one that it wrote.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import exp

from monosem.analysis.evidence.explain.completion import Answer, Token

_WORD = re.compile(r"[^\W\d_]+")
_LARGEST = 10  # no level is above it


def levels_at(answer: Answer, spans: Sequence[tuple[int, int]]) -> list[float | None]:
    """The expected level where each number stands (start, end in the text); None where no probability is given.

    Alternatives that are no level are left out; the shares of the others are taken as a whole. None too where a number
    is spread over several tokens.
    """
    placed, out, i = answer.placed(), [], 0
    for start, end in spans:
        while i + 1 < len(placed) and placed[i + 1][0] <= start:
            i += 1
        inside = placed and placed[i][0] <= start and end <= placed[i][0] + len(placed[i][1].text)
        out.append(expected(placed[i][1], start - placed[i][0]) if inside else None)
    return out


def expected(token: Token, at: int = 0) -> float | None:
    """The expected level among the alternatives of a token in which a number begins at ``at``; None without one."""
    before, whole, sum_ = token.text[:at], 0.0, 0.0
    for text, logprob in token.top:
        number = re.match(r" ?(\d+)", text[at:], re.ASCII) if text.startswith(before) else None
        if number and int(number[1]) <= _LARGEST:
            share = exp(logprob)
            whole, sum_ = whole + share, sum_ + share * int(number[1])
    return sum_ / whole if whole > 0 else None


def yes_at(answer: Answer, starts: Sequence[int]) -> list[float | None]:
    """P(yes) / (P(yes) + P(no)) of the token in which each place of the text lies; None where neither is likely."""
    placed, out = answer.placed(), []
    for start in starts:
        token = next((t for at, t in placed if at <= start < at + len(t.text)), None)
        out.append(yes(token) if token is not None else None)
    return out


def yes(token: Token) -> float | None:
    """P(yes) / (P(yes) + P(no)) among the alternatives of a token, however they are written: ``Yes``, `` no.``."""
    shares = {"yes": 0.0, "no": 0.0}
    for text, logprob in token.top:
        word = _WORD.search(text)
        if word and (name := word[0].casefold()) in shares:
            shares[name] += exp(logprob)
    whole = sum(shares.values())
    return shares["yes"] / whole if whole > 0 else None
