"""Attributes of a token in its context, without any model: text, script, shape, preceding tokens.

Every attribute is a phrase such as ``token " the"`` or ``previous token: digits``; a phrase is all that a rule holds.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

AND = " ∧ "

# In this order; a token may be of several classes. The space in front of a word is taken off first.
_CLASSES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (name, re.compile(pattern))
    for name, pattern in (
        ("digits", r"\d+"),
        ("hexadecimal", r"(?=.*\d)(?=.*[a-fA-F])[0-9a-fA-F]+"),
        ("only A C G T", r"[ACGT]+|[acgt]+"),
        ("letters and digits mixed", r"(?=.*\d)(?=.*[A-Za-z])[A-Za-z0-9]+"),
        ("mixed case", r"(?=.*[a-z][A-Z])[A-Za-z]+"),
        ("lower case", r"[^\W\d_A-Z]*[a-z][^\W\d_A-Z]*"),
        ("Capitalised", r"[A-Z][a-z]+"),
        ("UPPER CASE", r"[A-Z]{2,}"),
        ("one capital letter", r"[A-Z]"),
        ("base64 alphabet", r"[A-Za-z0-9+/=]+"),
        ("punctuation", r"[^\w\s]+"),
        ("end of sentence", r"[.!?。؟]+[\"')»”]*"),
        ("opening bracket", r".*[(\[{<«“‘]$"),
        ("closing bracket", r"^[)\]}>»”’].*"),
        ("quotation mark", r".*[\"'“”‘’«»`].*"),
        ("markup", r".*(</?|/>|&\w|\\begin|\\end).*"),
        ("mathematical sign", r"[+\-*/=<>^\\$|%~]+"),
        ("underscore", r".*_.*"),
        ("part of a character", r"(⟨[0-9A-F]{2}⟩)+"),
        ("special token", r"<\|.*\|>"),
    )
)


@lru_cache(maxsize=1 << 16)
def script(character: str) -> str | None:
    """The script of a letter, by the first word of its Unicode name; None for what is no letter."""
    if not unicodedata.category(character).startswith(("L", "M")):
        return None
    return unicodedata.name(character, "UNKNOWN").split(" ")[0].split("-")[0]


@lru_cache(maxsize=1 << 16)
def classes(token: str) -> tuple[str, ...]:
    """The classes of one token, from its own text alone."""
    body = token[1:] if token.startswith(" ") and len(token) > 1 else token
    names = [name for name, pattern in _CLASSES if pattern.fullmatch(body)]
    if not body.strip():
        names.append("line break" if "\n" in body else "white space")
    if token.startswith(" ") and body.strip():
        names.append("begins with a space")
    elif body[:1].isalpha():
        names.append("goes on with a word")
    scripts = {s for s in map(script, body) if s}
    if len(scripts) == 1:
        names.append(f"{scripts.pop()} script")
    return tuple(names)


def quote(text: str) -> str:
    """A token as a phrase holds it: JSON, with the sign that joins phrases escaped."""
    return json.dumps(text, ensure_ascii=False).replace("∧", "\\u2227")


@lru_cache(maxsize=1 << 16)
def of_token(token: str) -> tuple[str, ...]:
    """Attributes of a token by itself."""
    out = [f"token {quote(token)}"]
    folded = token.strip().casefold()
    if folded:
        out.append(f"word {quote(folded)}")
    out += [f"token: {c}" for c in classes(token)]
    if len(folded) > 3 and folded.isalpha():
        out += [f"ending {quote(folded[-n:])}" for n in (2, 3)] + [f"beginning {quote(folded[:n])}" for n in (2, 3)]
    return tuple(out)


def in_context(tokens: Sequence[str]) -> list[frozenset[str]]:
    """Attributes of every token of a snippet; following tokens are not used: the model cannot see them either."""
    out = []
    of_class = [set(classes(t)) for t in tokens]
    for i, token in enumerate(tokens):
        attributes = set(of_token(token))
        if i:
            before = tokens[i - 1]
            attributes.add(f"previous token {quote(before)}")
            if before.strip():
                attributes.add(f"previous word {quote(before.strip().casefold())}")
            attributes |= {f"previous token: {c}" for c in of_class[i - 1]}
            near = range(max(0, i - SPAN), i)
            attributes |= {f"shortly before {quote(tokens[j])}" for j in near}
            attributes |= {f"shortly before: {c}" for j in near for c in of_class[j]}
            run = set.intersection(*(of_class[j] for j in range(max(0, i - 2), i + 1)))
            attributes |= {f"in a run of: {c}" for c in run}
        out.append(frozenset(attributes))
    return out


SPAN = 4  # how far back "shortly before" reaches
