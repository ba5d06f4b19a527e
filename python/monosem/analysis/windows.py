"""The neighbourhood of an example: its tokens, the feature's activation on each, and how to show them."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from monosem.analysis.index.example import Example
from monosem.analysis.index.protocol import FeatureIndex
from monosem.analysis.inputs import Subject
from monosem.analysis.joined import by_hook, read_and_target
from monosem.analysis.scan import Rows, entries
from monosem.data.counted import BY_NAME, SkipTokens, TokenFilter, skipped_ids
from monosem.data.norm_limit import AS_TRAINED, NormLimit, as_trained
from monosem.data.protocols import LanguageModel
from monosem.nn.dictionary import Dictionary

_UNKNOWN = "\N{REPLACEMENT CHARACTER}"


class Piece(NamedTuple):
    """Some text of a window: usually one token, several where only together they make a whole character."""

    text: str
    value: float  # the largest activation of its tokens
    focus: bool  # holds the token of the example
    tokens: tuple[tuple[str, float], ...]  # each token as the vocabulary shows it, with its activation


@dataclass(frozen=True)
class Window:
    """An example in context."""

    row: int
    position: int
    value: float
    source: str
    pieces: tuple[Piece, ...]
    right_to_left: bool

    @property
    def text(self) -> str:
        return "".join(p.text for p in self.pieces)


class ShowsText(Protocol):
    """The text side of a language model."""

    @property
    def bos_id(self) -> int: ...

    def token_str(self, token: int) -> str: ...

    def text_within(self, ids: Sequence[int]) -> str: ...


class TextCache:
    """The text side of a model with cached answers, for very many windows."""

    def __init__(self, model: ShowsText) -> None:
        self.model, self.bos_id = model, model.bos_id
        self._texts: dict[tuple[int, ...], str] = {}
        self._names: dict[int, str] = {}
        self.silent = _Silent(model)

    def text_within(self, ids: Sequence[int]) -> str:
        key = tuple(ids)
        if key not in self._texts:
            self._texts[key] = self.model.text_within(list(ids))
        return self._texts[key]

    def token_str(self, token: int) -> str:
        if token not in self._names:
            self._names[token] = self.model.token_str(token)
        return self._names[token]


class _Silent(dict[int, "Piece | None"]):
    """The piece of each token on which the feature does not fire; None where the token is no whole character."""

    def __init__(self, model: ShowsText) -> None:
        super().__init__()
        self.model = model

    def __missing__(self, token: int) -> Piece | None:
        text = _text(self.model, [token])
        self[token] = None if text is None else Piece(text, 0.0, False, ((self.model.token_str(token), 0.0),))
        return self[token]


def lay_out(
    model: ShowsText, rows: Rows, example: Example, first: int, values: Sequence[float], characters: tuple[int, int]
) -> Window:
    """The window of an example whose tokens begin at position ``first`` and carry these activations.

    Args:
        model: shows text: a model, or a :class:`TextCache` of one.
    """
    ids = np.asarray(rows.tokens[example.row, first : first + len(values)]).tolist()
    focus = example.position - first
    if isinstance(model, TextCache):
        start, end = _in_reach(model, ids, focus, characters)
        ids, values, focus = ids[start:end], values[start:end], focus - start
    pieces = trim(show(model, ids, values, focus), characters)
    source = rows.sources[int(rows.source[example.row, example.position])]
    right = is_right_to_left("".join(p.text for p in pieces))
    return Window(
        row=example.row,
        position=example.position,
        value=example.value,
        source=source,
        pieces=pieces,
        right_to_left=right,
    )


def _in_reach(texts: TextCache, ids: Sequence[int], focus: int, characters: tuple[int, int]) -> tuple[int, int]:
    """First and end of the tokens that :func:`trim` can keep, or a few more: the rest need not be laid out.

    Tokens that are no whole character count nothing, and none stands at either end, so that they are joined as in the
    whole window.
    """
    silent = texts.silent
    first, end = focus, focus + 1
    left, right = characters
    while first > 0 and (left >= 0 or silent[ids[first]] is None):
        first -= 1
        piece = silent[ids[first]]
        left -= len(piece.text) if piece else 0
    while end < len(ids) and (right >= 0 or silent[ids[end - 1]] is None):
        piece = silent[ids[end]]
        right -= len(piece.text) if piece else 0
        end += 1
    return first, end


def stored_window(
    index: FeatureIndex,
    texts: TextCache,
    feature: int,
    example: Example,
    before: int,
    after: int,
    characters: tuple[int, int],
) -> Window:
    """An example in context, from the activations that the index holds (``index.codes``)."""
    first = max(0, example.position - before)
    end = min(index.length, example.position + after + 1)
    values = index.codes.window(feature, example.row, first, end).tolist()
    return lay_out(texts, index.rows, example, first, values, characters)


def windows_of(
    subject: Subject,
    index: FeatureIndex,
    examples: Sequence[tuple[int, Example]],
    *,
    before: int = 28,
    after: int = 16,
    characters: tuple[int, int] = (48, 28),
    skip_positions: int = 1,
) -> list[Window]:
    """Show each (feature, example) as :func:`windows` does; stored activations are not computed again.

    A wide dictionary encodes the tokens of a window as slowly as any others; reading them back costs nothing.
    """
    stored, texts = set(index.stored_rows.tolist()), TextCache(subject.model)
    others = [pair for pair in examples if pair[1].row not in stored]
    computed = iter(
        windows(
            subject.sae,
            subject.model,
            subject.hook_name,
            index.rows,
            others,
            before=before,
            after=after,
            characters=characters,
            skip_positions=skip_positions,
            skip_tokens=index.meta["settings"].get("skip_tokens", ()),
            limit=as_trained(index.meta["settings"]),
        )
        if others
        else ()
    )
    return [
        stored_window(index, texts, feature, example, before, after, characters)
        if example.row in stored
        else next(computed)
        for feature, example in examples
    ]


@torch.no_grad()
def windows(
    sae: Dictionary,
    model: LanguageModel,
    hook_name: str,
    rows: Rows,
    examples: Sequence[tuple[int, Example]],
    *,
    before: int = 28,
    after: int = 16,
    characters: tuple[int, int] = (48, 28),
    contexts: int = 16,
    skip_positions: int = 1,
    skip_tokens: SkipTokens = BY_NAME,
    limit: NormLimit | str | None = AS_TRAINED,
) -> list[Window]:
    """Show each (feature, example) with the tokens around it and the feature's activation on them.

    The rows that occur run through the model once; only the tokens of the windows are encoded.

    Args:
        before, after: most tokens on either side.
        characters: most characters on either side: so that a line is as long in DNA as in prose.
        limit: on the norm of activations; a token beyond it is shown as one on which nothing is active. "as trained":
            that of the dictionary's training, if it had one.
    """
    limit = as_trained(getattr(sae, "metadata", {})) if isinstance(limit, str) else limit
    tokens, texts = np.asarray(rows.tokens), TextCache(model)
    counts = TokenFilter(skip_positions, skipped_ids(model, skip_tokens), limit)
    out: list[Window | None] = [None] * len(examples)
    numbers = sorted({example.row for _, example in examples})
    by_row: dict[int, list[int]] = {}
    for i, (_, example) in enumerate(examples):
        by_row.setdefault(example.row, []).append(i)
    for start in range(0, len(numbers), contexts):
        run = numbers[start : start + contexts]
        ids = torch.from_numpy(tokens[run].astype(np.int64))
        if limit is None:
            activations = targets = model.activations(ids, hook_name)
        else:
            activations, targets = read_and_target(model, ids, hook_name)
        spans = [
            (i, local, max(0, examples[i][1].position - before), min(ids.shape[1], examples[i][1].position + after + 1))
            for local, row in enumerate(run)
            for i in by_row[row]
        ]
        scored = counts.by_norm(counts.by_token(ids.numpy()), by_hook(model, activations, targets))
        values = _window_values(sae, activations, [(examples[i][0], r, a, b) for i, r, a, b in spans], scored)
        for (i, _, a, _), of_window in zip(spans, values, strict=True):
            out[i] = lay_out(texts, rows, examples[i][1], a, of_window, characters)
    return [w for w in out if w is not None]


def _window_values(
    sae: Dictionary, activations: Tensor, spans: list[tuple[int, int, int, int]], scored: Tensor
) -> list[list[float]]:
    """The activation of one feature on each token of each span (feature, row, first, end); 0 if not counted."""
    x = torch.cat([activations[r, a:b] for _, r, a, b in spans]).to(sae.W_dec.device, torch.float32)
    lengths = torch.tensor([b - a for *_, a, b in spans], dtype=torch.int64, device="cpu")
    feature = torch.tensor([f for f, *_ in spans], dtype=torch.int64, device="cpu").repeat_interleave(lengths)
    values, features, at = entries(sae.encode(x))
    mine = features == feature[at]
    flat = torch.zeros(len(x), dtype=torch.float32, device="cpu").index_put_((at[mine],), values[mine])
    flat *= torch.cat([scored[r, a:b] for _, r, a, b in spans])
    return [part.tolist() for part in flat.split(lengths.tolist())]


def show(model: ShowsText, ids: Sequence[int], values: Sequence[float], focus: int) -> tuple[Piece, ...]:
    """Tokens as text. Up to four tokens that only together make a character are joined: the script stays legible."""
    pieces, count = [], len(ids)
    silent = model.silent if isinstance(model, TextCache) else defaultdict(lambda: None)
    i = 0
    while i < count:
        if not values[i] and i != focus and (known := silent[ids[i]]) is not None:
            pieces.append(known)
            i += 1
            continue
        end = i + 1
        text = _text(model, ids[i:end])
        while text is None and end < min(count, i + 4):
            end += 1
            text = _text(model, ids[i:end])
        if text is None:
            end, text = i + 1, model.token_str(ids[i])
        tokens = tuple((model.token_str(t), v) for t, v in zip(ids[i:end], values[i:end], strict=True))
        pieces.append(Piece(text, max(v for _, v in tokens), i <= focus < end, tokens))
        i = end
    return tuple(pieces)


def trim(pieces: tuple[Piece, ...], characters: tuple[int, int]) -> tuple[Piece, ...]:
    """The pieces around the focus that fit into so many characters before and after it."""
    focus = next(i for i, p in enumerate(pieces) if p.focus)
    start, left = focus, characters[0]
    while start > 0 and len(pieces[start - 1].text) <= left:
        start -= 1
        left -= len(pieces[start].text)
    end, left = focus + 1, characters[1]
    while end < len(pieces) and len(pieces[end].text) <= left:
        left -= len(pieces[end].text)
        end += 1
    return pieces[start:end]


def _text(model: ShowsText, ids: Sequence[int]) -> str | None:
    """The text of these tokens, or None if they are not whole characters. Special tokens keep their name."""
    if list(ids) == [model.bos_id]:
        return model.token_str(ids[0])
    text = model.text_within(list(ids))
    return None if not text or _UNKNOWN in text else text


def is_right_to_left(text: str) -> bool:
    """Whether most letters belong to scripts written from right to left."""
    if text.isascii():
        return False
    classes = [unicodedata.bidirectional(c) for c in text]
    right = sum(c in ("R", "AL") for c in classes)
    return right > classes.count("L")
