"""Text that no tokenizer can read: half of a character, as cut posts and command lines in another encoding have it."""

from __future__ import annotations

import re
from collections.abc import Iterable

_SURROGATE = re.compile("[\ud800-\udfff]")


def check_text(text: str, where: str) -> None:
    """Raise ValueError if a text holds a lone surrogate, which no UTF-8 can write; ``where`` says whose text it is."""
    surrogate = None if text.isascii() else _SURROGATE.search(text)
    if surrogate is None:
        return
    at, code = surrogate.start(), ord(surrogate.group())
    kind = "a byte that is not UTF-8" if 0xDC80 <= code <= 0xDCFF else "half of a character"
    near = text[max(0, at - 12) : at + 8]
    raise ValueError(
        f"{where} holds a lone surrogate, U+{code:04X}, at character {at} ({kind}: …{near!a}…);"
        " wanted whole characters. Remove it, or replace it: text.encode('utf-8', 'replace').decode()."
    )


def check_texts(texts: Iterable[str]) -> list[str]:
    """The texts as a list; ValueError if one cannot be tokenized."""
    if isinstance(texts, str):
        raise ValueError(f"texts: got the text {texts[:40]!a}; wanted a list of texts. Put it into one: [text].")
    texts = list(texts)
    for number, text in enumerate(texts):
        which = "text:" if len(texts) == 1 else f"text: number {number}"
        if not isinstance(text, str):
            raise ValueError(f"{which} got {type(text).__name__}; wanted a string")
        check_text(text, which if len(texts) > 1 else f"text: {text[:20]!a}")
    return texts
