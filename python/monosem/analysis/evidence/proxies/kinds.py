"""Scores of tokens for a kind of text: log P(s | kind) / P(s), the best over all s that end at the token.

*Towards Monosemanticity*, "Feature Proxies". s runs over the token, the token and the one before it, and so on; P(s) is
the product of the tokens' frequencies. What P(s | kind) is, each class here says.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from monosem.analysis.evidence.proxies.characters import Characters, Vocabulary

OTHER = 1e-10  # the paper's probability of a character that does not belong
_WALL = -1e6  # the log ratio of a BOS: no s reaches over it


class Proxy(ABC):
    """One kind of text.

    Attributes:
        name: what it is called in tables.
        how: one line on how the score is made.
        binary: correlate with the sign of the score, not with its size above 0 (for log ratios that fall in two modes).
    """

    name: str
    how: str
    binary: bool = False

    @abstractmethod
    def fit(self, vocabulary: Vocabulary, frequency: np.ndarray, read: Callable[[], Iterable[Characters]]) -> None:
        """Learn what depends on the text: token frequencies [V], and the characters of the text in blocks."""

    @abstractmethod
    def scores(self, text: Characters) -> np.ndarray:
        """The score of every token, in nats where it is a log ratio: float64 [B, T]."""


class CharacterSet(Proxy):
    """P(s | kind) = Π P(c): 1 / |alphabet| for a character of the alphabet, 1e-10 for another.

    Args:
        alphabets: ASCII characters; with several (upper and lower case) a text keeps to one, and the best one counts.
        tokens: s has at least so many tokens (2 for DNA: ``CAT`` alone says little).
    """

    def __init__(self, name: str, alphabets: Sequence[str], tokens: int = 1, binary: bool = False) -> None:
        self.name, self.alphabets, self.tokens, self.binary = name, list(alphabets), tokens, binary
        for alphabet in self.alphabets:
            if not alphabet or not alphabet.isascii() or len(set(alphabet)) < len(alphabet):
                raise ValueError(f"alphabets: got {alphabet!r}; wanted different ASCII characters, each once")
        each = ", or ".join(f"1/{len(a)} for each of {a if len(a) < 30 else f'{len(a)} characters'}" for a in alphabets)
        least = f"; at least {tokens} tokens" if tokens > 1 else ""
        self.how = f"P(c) = {each}, {OTHER:g} for others{least}" + ("; its sign" if binary else "")

    def fit(self, vocabulary: Vocabulary, frequency: np.ndarray, read: Callable[[], Iterable[Characters]]) -> None:
        self._ratios = []
        for alphabet in self.alphabets:
            inside = vocabulary.count(alphabet.encode())
            outside = np.maximum(vocabulary.characters() - inside, 0)
            ratio = -inside * math.log(len(alphabet)) + outside * math.log(OTHER) - np.log(frequency)
            ratio[vocabulary.bos_id] = _WALL
            self._ratios.append(ratio)

    def scores(self, text: Characters) -> np.ndarray:
        return np.max([best_run(ratio[text.tokens], self.tokens) for ratio in self._ratios], axis=0)


def best_run(ratios: np.ndarray, tokens: int = 1) -> np.ndarray:
    """max over s of Σ ratios, s the last ``tokens`` or more tokens up to each: [B, T] → [B, T].

    With C the cumulative sum, that is C_i − min_{j ≤ i − tokens} C_j. Where a row has too few tokens yet: its wall.
    """
    total = np.concatenate([np.zeros((len(ratios), 1)), ratios.cumsum(1, dtype=np.float64)], axis=1)
    lowest = np.minimum.accumulate(total, axis=1)
    out = np.full(ratios.shape, _WALL)
    if ratios.shape[1] >= tokens:
        out[:, tokens - 1 :] = total[:, tokens:] - lowest[:, : ratios.shape[1] - tokens + 1]
    return out


class Script(Proxy):
    """Bayes: P(s | script) / P(s) = P(script | s) / P(script).

    P(script | s) is 1 if every character lies in the script's Unicode blocks, 1e-10 if one does not. A token that ends
    within a character has as P(script | s) the share of its occurrences whose characters, with the bytes that follow,
    lie in the script; if it ends a character begun before it, s takes that token in. P(script) is the share of the
    tokens of the text that lie in the script. The space that byte-level BPE writes before a word is not counted.

    Args:
        blocks: ranges of code points, both ends included.
    """

    def __init__(self, name: str, blocks: Sequence[tuple[int, int]]) -> None:
        self.name = name
        self.member = np.zeros(0x110001, dtype=bool)
        for low, high in blocks:
            self.member[low : high + 1] = True
        ranges = ", ".join(f"U+{low:04X}–{high:04X}" for low, high in blocks)
        self.how = f"P(script | s) / P(script), the script {ranges}"

    def fit(self, vocabulary: Vocabulary, frequency: np.ndarray, read: Callable[[], Iterable[Characters]]) -> None:
        seen, inside = np.zeros((2, len(vocabulary)))
        for text in read():
            flat = text.tokens.reshape(-1)
            seen += np.bincount(flat, minlength=len(seen))
            inside += np.bincount(flat, weights=text.all_in(self.member), minlength=len(seen))
        seen[vocabulary.bos_id] = 0
        self.share = inside.sum() / max(seen.sum(), 1)
        self._fraction = np.where(seen > 0, inside / np.maximum(seen, 1), 0)

    def scores(self, text: Characters) -> np.ndarray:
        if not self.share:
            return np.full(text.tokens.shape, math.log(OTHER))
        whole = np.where(text.all_in(self.member), 1.0, OTHER)
        piece = np.maximum(self._fraction[text.tokens.reshape(-1)], OTHER)
        score = np.log(np.where(text.complete, whole, piece) / self.share)
        return score.reshape(text.tokens.shape)


class Frequencies(Proxy):
    """P(s | kind) = Π P(token), with the frequencies of tokens in given text of the kind.

    Args:
        tokens: the text, any shape.
    """

    def __init__(self, name: str, tokens: np.ndarray) -> None:
        self.name, self._tokens = name, np.asarray(tokens).reshape(-1).astype(np.int64)
        self.how = f"frequencies of tokens in the text of {name}"

    def fit(self, vocabulary: Vocabulary, frequency: np.ndarray, read: Callable[[], Iterable[Characters]]) -> None:
        counts = np.bincount(self._tokens, minlength=len(vocabulary)).astype(np.float64)
        counts[vocabulary.bos_id] = 0
        # An unseen token counts as half a sighting, as in the frequencies that it is compared with.
        self._ratio = np.log(np.maximum(counts, 0.5) / max(counts.sum(), 1)) - np.log(frequency)
        self._ratio[vocabulary.bos_id] = _WALL

    def scores(self, text: Characters) -> np.ndarray:
        return best_run(self._ratio[text.tokens])


class Pattern(Proxy):
    """The share of a token's bytes (a leading space apart) that lie within matches of a regular expression.

    The matches are those of Python's ``re.finditer`` over each document as far as a context holds it; an expression may
    look ahead, so that the score, unlike the paper's, can know what follows.
    """

    def __init__(self, name: str, expression: str) -> None:
        self.name = name
        try:
            self.expression = re.compile(expression)
        except re.error as error:
            raise ValueError(f"proxy {name!r}: {expression!r} is not a regular expression ({error})") from None
        self.how = f"matches of {expression}"

    def fit(self, vocabulary: Vocabulary, frequency: np.ndarray, read: Callable[[], Iterable[Characters]]) -> None:
        self._bos = vocabulary.bos_id

    def scores(self, text: Characters) -> np.ndarray:
        edges = np.zeros(len(text.raw) + 1, dtype=np.int64)
        for start, end in text.documents(self._bos):
            string, at = text.text(start, end)
            stop = text.first[end - 1] + text.length[end - 1]
            for match in self.expression.finditer(string):
                if match.end() > match.start():
                    edges[at[match.start()]] += 1
                    edges[at[match.end()] if match.end() < len(at) else stop] -= 1
        return text.coverage(edges.cumsum()[:-1] > 0).reshape(text.tokens.shape)


class Function(Proxy):
    """Any score: a function from the tokens of a document (as strings) to one number each; above 0 means "this kind".

    A byte that is no whole character is shown as ``⟨D8⟩``, as everywhere.
    """

    def __init__(self, name: str, function: Callable[[list[str]], Sequence[float]], show: Callable[[int], str]) -> None:
        self.name, self.function, self._show = name, function, show
        self.how = f"{getattr(function, '__module__', '')}:{getattr(function, '__name__', 'function')}"

    def fit(self, vocabulary: Vocabulary, frequency: np.ndarray, read: Callable[[], Iterable[Characters]]) -> None:
        self._bos = vocabulary.bos_id
        self._strings = [self._show(t) for t in range(len(vocabulary))]

    def scores(self, text: Characters) -> np.ndarray:
        flat = text.tokens.reshape(-1)
        out = np.zeros(len(flat))
        for start, end in text.documents(self._bos):
            strings = [self._strings[t] for t in flat[start:end]]
            given = np.asarray(self.function(strings), dtype=np.float64)
            if given.shape != (len(strings),) or not np.isfinite(given).all():
                raise ValueError(
                    f"proxy {self.name!r}: for {len(strings)} tokens {self.how} gave an array of shape {given.shape}"
                    f"{'' if np.isfinite(given).all() else ' with NaN or Inf in it'}; wanted one finite number each"
                )
            out[start:end] = given
        return out.reshape(text.tokens.shape)
