"""Codes and activations of texts, pooled over the tokens of each: a sparse row and a dense row per text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from monosem.analysis.scan import Block, blocks, norm_limit
from monosem.data.counted import BY_NAME, SkipTokens
from monosem.data.norm_limit import AS_TRAINED, SkipNorm
from monosem.data.protocols import LanguageModel
from monosem.nn.dictionary import Dictionary

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

POOLS = ("mean", "max", "last")
_AT_ONCE = 4096  # tokens of a batch, about


@dataclass(frozen=True)
class Pooled:
    """One row per text.

    Attributes:
        codes: fp32 CSR [texts, d_sae]: the features of the dictionary.
        inputs: fp32 [texts, d_in]: the activations that it reads.
        tokens: int64 [texts]: how many tokens of each count; rows of texts without one are 0.
    """

    codes: csr_matrix
    inputs: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True)
class _Rows:
    """Texts of one length, as ``scan.Rows``."""

    tokens: np.ndarray
    sources: list[str]

    @property
    def source(self) -> np.ndarray:
        return np.zeros(self.tokens.shape, dtype=np.uint8)


def pool(
    sae: Dictionary,
    model: LanguageModel,
    hook_name: str,
    rows: Sequence[np.ndarray],
    *,
    how: str = "mean",
    skip_positions: int = 1,
    skip_tokens: SkipTokens = BY_NAME,
    skip_norm: SkipNorm | str = AS_TRAINED,
    progress: str | None = None,
) -> Pooled:
    """Run the model and the dictionary over texts, and pool over the tokens that count (``data/counted.py``).

    Texts of one length are read together, so that there is no padding. Codes go from the encoder into SciPy as their
    entries: no array of texts × features or tokens × features is made. Values are in the units of
    ``analysis.unit_rows``; of a dictionary with entries below 0, the positive ones count.

    Args:
        rows: token ids of each text, the BOS at its beginning included.
        how: ``"mean"`` or ``"max"`` over tokens, or ``"last"``: the last token that counts.

    Raises:
        ValueError: another ``how``, or a dictionary that does not fit the hook.
    """
    from scipy import sparse

    if how not in POOLS:
        raise ValueError(f"pool: got {how!r}; wanted one of {', '.join(map(repr, POOLS))}")
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    groups = [np.flatnonzero(lengths == n) for n in np.unique(lengths[lengths > skip_positions])]
    inputs = np.zeros((len(rows), model.width(hook_name)), dtype=np.float32)
    tokens = np.zeros(len(rows), dtype=np.int64)
    order: list[np.ndarray] = []  # the text of each row of ``parts``
    parts: list[Any] = []

    def of_length(texts: np.ndarray) -> _Rows:
        return _Rows(np.stack([rows[i] for i in texts]), ["text"])

    limit = None
    if groups:
        most = max(groups, key=lambda texts: texts.size * lengths[texts[0]])
        limit = norm_limit(skip_norm, sae, model, hook_name, of_length(most), skip_positions, skip_tokens)
    with tqdm(total=len(rows), unit="text", desc=progress, disable=progress is None) as bar:
        for texts in groups:
            for block in blocks(
                sae,
                model,
                hook_name,
                of_length(texts),
                contexts=max(1, _AT_ONCE // int(lengths[texts[0]])),
                skip_positions=skip_positions,
                skip_tokens=skip_tokens,
                limit=limit,
                may_be_empty=True,
            ):
                here = texts[block.row.numpy()]
                code, inputs[here], tokens[here] = _of_block(block, how, sae.cfg.d_sae)
                order.append(here)
                parts.append(code)
                bar.update(len(here))
    # A text without a token that counts gets the row of zeros behind the others.
    read = np.concatenate([np.zeros(0, dtype=np.int64), *order])
    place = np.full(len(rows), len(read), dtype=np.int64)
    place[read] = np.arange(len(read))
    parts.append(sparse.csr_matrix((1, sae.cfg.d_sae), dtype=np.float32))
    stacked: Any = sparse.vstack(parts, format="csr")
    return Pooled(stacked[place], inputs, tokens)


def _of_block(block: Block, how: str, d_sae: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """(codes, inputs, tokens) of the texts of a block."""
    from scipy import sparse

    text = (block.where // block.tokens.shape[1]).numpy()  # of each token that counts, rising
    count = len(block.row)
    tokens = np.bincount(text, minlength=count)
    x, at = block.x.double().cpu().numpy(), block.at.numpy()
    values, features = block.values.double().numpy(), block.features.numpy()
    if how == "last":
        is_last = np.append(text[1:] != text[:-1], True)
        kept = is_last[at]
        values, features, at = values[kept], features[kept], at[kept]
        inputs = np.zeros((count, x.shape[1]))
        inputs[text[is_last]] = x[is_last]
    elif how == "mean":
        inputs = np.zeros((count, x.shape[1]))
        np.add.at(inputs, text, x / tokens[text][:, None])
        values = values / tokens[text[at]]
    else:
        inputs = np.full((count, x.shape[1]), -np.inf)
        np.maximum.at(inputs, text, x)
        inputs[tokens == 0] = 0
        # The largest entry of each text and feature: the last of its run once they are sorted.
        order = np.lexsort((values, features, text[at]))
        values, features, at = values[order], features[order], at[order]
        ends = np.append((np.diff(features) != 0) | (np.diff(text[at]) != 0), True)[: len(values)]
        values, features, at = values[ends], features[ends], at[ends]
    code = sparse.coo_matrix((values, (text[at], features)), shape=(count, d_sae)).tocsr()  # equal places are added up
    return code.astype(np.float32), inputs.astype(np.float32), tokens
