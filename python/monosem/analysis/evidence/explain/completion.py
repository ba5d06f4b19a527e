"""A chat completion: its text and, where the endpoint gives them, the log-probabilities of its tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from monosem.analysis.evidence.explain.post import Odd

ALTERNATIVES = 20  # most that OpenAI gives for each token, and vLLM unless it is told otherwise
_LEAST = -16.0  # a log-probability below it adds nothing to a sum of some shares: it is not kept


@dataclass(frozen=True)
class Token:
    """A token of the answer with its alternatives at that place, the chosen one among them: (text, log-probability)."""

    text: str
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Answer:
    """What the model wrote.

    Attributes:
        tokens: of the text, with their alternatives; None where the endpoint gave none.
        cut: why the answer ended early: ``"length"``, it had as many tokens as it may have; ``"context"``, the context
            of the model was full before; else nothing.
    """

    text: str
    tokens: tuple[Token, ...] | None = None
    cut: str = ""

    @property
    def told(self) -> bool:
        """Whether there are log-probabilities of more than the tokens that were chosen."""
        return any(len(t.top) > 1 for t in self.tokens or ())

    def placed(self) -> list[tuple[int, Token]]:
        """Each token with the place in ``text`` where it begins; none where text and tokens do not match.

        Tokens of a thought that is not in the text, and blanks taken off it, may come before and after.
        """
        tokens = self.tokens or ()
        start = "".join(t.text for t in tokens).rfind(self.text)
        if start < 0:
            return []
        out, at = [], -start
        for token in tokens:
            if -len(token.text) < at < len(self.text):
                out.append((at, token))
            at += len(token.text)
        return out

    def to_dict(self) -> dict[str, Any]:
        """As JSON, for the cache."""
        out: dict[str, Any] = {"answer": self.text, "cut": self.cut}
        if self.tokens is not None:
            out["tokens"] = [[t.text, [list(a) for a in t.top]] for t in self.tokens]
        return out

    @staticmethod
    def from_dict(kept: dict[str, Any]) -> Answer:
        """Read what :meth:`to_dict` wrote.

        Raises:
            ValueError: it is no answer.
        """
        text, tokens = kept.get("answer"), kept.get("tokens")
        if not isinstance(text, str):
            raise ValueError("its answer is no text")
        try:
            read = tokens and [Token(str(t), tuple((str(a), float(p)) for a, p in top)) for t, top in tokens]
        except (TypeError, ValueError) as error:
            raise ValueError(f"its tokens cannot be read ({error})") from None
        return Answer(text, tuple(read) if read is not None else None, str(kept.get("cut", "")))


def read_completion(body: bytes, max_tokens: int | None = None) -> tuple[Answer, dict[str, int]]:
    """(answer, tokens as counted by the endpoint) of a chat completion. Counts that are no counts are 0.

    Args:
        max_tokens: the most that were asked for. An answer cut off before them filled the context of the model.

    Raises:
        Odd: it is none, or its text is no Unicode.
    """
    try:
        said = json.loads(body.decode("utf-8-sig"))
        choice = said["choices"][0]
        text = choice["message"]["content"]
        if not isinstance(text, str):
            raise TypeError("no text")
        text.encode("utf-8")  # lone surrogates cannot be stored
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise Odd(f"an answer that is no chat completion ({type(error).__name__}: {error})") from None
    counts = said.get("usage") if isinstance(said.get("usage"), dict) else {}
    usage = {name: _count(counts.get(name)) for name in ("prompt_tokens", "completion_tokens")}
    cut = "length" if choice.get("finish_reason") == "length" else ""
    if cut and max_tokens is not None and 0 < usage["completion_tokens"] < max_tokens:
        cut = "context"
    return Answer(text, _tokens(choice.get("logprobs")), cut), usage


def _tokens(logprobs: Any) -> tuple[Token, ...] | None:
    """Tokens from either form that servers use; None where there are none, or where they cannot be read.

    A chat has ``{"content": [{"token", "logprob", "top_logprobs": [{"token", "logprob"}, …]}, …]}``; some servers
    answer it as a completion: ``{"tokens": […], "token_logprobs": […], "top_logprobs": [{token: logprob}, …]}``.
    """
    try:
        if logprobs.get("content"):
            out = [
                _token(t["token"], t["logprob"], [(a["token"], a["logprob"]) for a in t["top_logprobs"]])
                for t in logprobs["content"]
            ]
        else:
            columns = (logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"])
            out = [_token(t, p, list(top.items())) for t, p, top in zip(*columns, strict=True)]
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return tuple(out) or None


def _token(text: str, own: float, top: Sequence[tuple[str, float]]) -> Token:
    """One token. The chosen one counts once, though several servers list it among its alternatives again."""
    alternatives = {text: own} | dict(top)
    for name, p in alternatives.items():
        if not isinstance(name, str) or isinstance(p, bool) or not isinstance(p, (int, float)) or not p < 0.01:
            raise TypeError("no token with its log-probability")  # one a little above 0 is a rounded 0
        name.encode("utf-8")
    # Rounded here, so that an answer is the same when it comes and when it is read from the cache.
    kept = [(name, round(float(p), 4)) for name, p in alternatives.items() if p >= _LEAST]
    return Token(text, tuple(sorted(kept, key=lambda a: -a[1])))


def _count(value: Any) -> int:
    return value if type(value) is int and 0 <= value < 2**53 else 0
