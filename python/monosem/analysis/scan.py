"""One pass of a dictionary over text: blocks of tokens with activations, code and, on request, losses.

Every analysis reads the same :class:`Block`. A code is held as its entries (value, feature, token), so nothing of
size tokens × features is ever made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from monosem.analysis.joined import Joined, by_hook, read_and_target, target_of
from monosem.analysis.unit_rows import check_reconstructs, in_unit_rows
from monosem.data.counted import BY_NAME, SkipTokens, TokenFilter, skipped_ids
from monosem.data.norm_limit import AS_TRAINED, SAMPLED, NormLimit, SkipNorm, as_trained
from monosem.data.protocols import LanguageModel, of_texts, predicts_next
from monosem.distributed.peers import ALONE, Peers, part_of
from monosem.nn.dictionary import Dictionary
from monosem.ops import SparseCode


class Rows(Protocol):
    """Token rows: ``tokens`` [rows, T], ``source`` [rows, T] (each an index into the names ``sources``)."""

    @property
    def tokens(self) -> Any: ...

    @property
    def source(self) -> Any: ...

    @property
    def sources(self) -> list[str]: ...


@dataclass(frozen=True)
class Losses:
    """Nats of each predicted token, [B, T − 1]: of the untouched model, with the reconstruction, with zeros.

    With a mean activation given, also ``mean``, with that in its place, and the divergences KL(untouched ‖ …) of the
    predictions in each of the three cases.
    """

    clean: Tensor
    sae: Tensor
    zero: Tensor
    mean: Tensor | None = None
    kl_sae: Tensor | None = None
    kl_zero: Tensor | None = None
    kl_mean: Tensor | None = None


@dataclass(frozen=True)
class Block:
    """B rows of text and the code of their N scored tokens: those that count, see ``data/counted.py``.

    An entry of the code is ``values`` (> 0, in the units of ``unit_rows``), ``features`` (which feature) and ``at``
    (which scored token, 0 … N−1). ``negative`` are the features and tokens of entries < 0, which AbsTopK has.
    """

    row: Tensor  # int64 [B], the row of the text
    tokens: Tensor  # int64 [B, T]
    source: Tensor  # int64 [N]
    where: Tensor  # int64 [N], where each scored token stands: row of the block · T + position, rising
    x: Tensor  # [N, d_in]
    target: Tensor | None  # [N, d_out], what is reconstructed: x itself but for transcoders; only with the losses
    reconstruction: Tensor | None  # [N, d_out]; only with the losses
    values: Tensor  # fp32 [nnz]
    features: Tensor  # int64 [nnz]
    at: Tensor  # int64 [nnz]
    negative: tuple[Tensor, Tensor]  # int64 [negative entries] twice
    losses: Losses | None
    left_out: int = 0  # tokens left out by their norm, here and since the last block

    @property
    def places(self) -> Tensor:
        """Where each entry stands in the text: row · T + position, int64 [nnz]."""
        return self.places_of(self.at)

    def places_of(self, at: Tensor) -> Tensor:
        """Where scored tokens stand in the text: 0 … N−1 → row · T + position."""
        length, where = self.tokens.shape[1], self.where[at]
        return self.row[where // length] * length + where % length


def entries(code: SparseCode) -> tuple[Tensor, Tensor, Tensor]:
    """The positive entries of a ``SparseCode``: values, features, tokens, each [nnz], on the CPU."""
    values = code.values.reshape(-1)
    return values[values > 0].float().cpu(), *_places(code, values > 0)


def _places(code: SparseCode, which: Tensor) -> tuple[Tensor, Tensor]:
    """Features and tokens of some entries."""
    if not which.any():
        none = torch.empty(0, dtype=torch.int64, device="cpu")
        return none, none
    return code.indices.reshape(-1)[which].long().cpu(), code.row_ids().reshape(-1)[which].long().cpu()


def check(sae: Dictionary, model: LanguageModel, hook_name: str, rows: Rows, skip_positions: int = 1) -> None:
    """Raise ValueError if this dictionary cannot be run at this hook over these rows."""
    width = model.width(hook_name)
    if width != sae.cfg.d_in:
        raise ValueError(
            f"hook_name: {hook_name!r} of model {model.name!r} is {width} wide and the SAE has d_in={sae.cfg.d_in}; "
            "wanted the hook on which the SAE was trained"
        )
    shape = tuple(np.shape(rows.tokens))
    if len(shape) != 2 or shape[0] == 0:
        raise ValueError(
            f"tokens: got shape {shape}; wanted [rows, n_ctx] with at least one row. "
            "The text may be shorter than one context of the model: give more of it."
        )
    if tuple(np.shape(rows.source)) != shape:
        raise ValueError(f"source: got shape {tuple(np.shape(rows.source))}; wanted that of tokens, {shape}")
    if not 0 <= skip_positions < shape[1]:
        raise ValueError(
            f"skip_positions: got {skip_positions}; wanted 0 to {shape[1] - 1} (rows of {shape[1]} tokens)"
        )


def spread(rows: Rows, tokens: int | None) -> np.ndarray:
    """Indices of evenly spaced rows that hold at least ``tokens`` tokens together; every row if None or too few."""
    count, length = np.shape(rows.tokens)
    if tokens is not None and tokens <= 0:
        raise ValueError(f"tokens: got {tokens}; wanted at least 1")
    number = count if tokens is None else min(count, -(-tokens // length))
    return (2 * np.arange(number) + 1) * count // (2 * number) if number else np.arange(0)


def norm_limit(
    skip_norm: SkipNorm | str,
    sae: Dictionary,
    model: LanguageModel,
    hook_name: str,
    rows: Rows,
    skip_positions: int = 1,
    skip_tokens: SkipTokens = BY_NAME,
) -> NormLimit | None:
    """The limit on the norm of activations, by which tokens are left out.

    Args:
        skip_norm: a limit; a multiple of the median, which is measured on 64 of the rows; ``"as trained"``: that of the
            dictionary's training, if it had one; None: none.
    """
    if skip_norm is None or isinstance(skip_norm, NormLimit):
        return skip_norm
    if isinstance(skip_norm, str):
        if skip_norm != AS_TRAINED:
            raise ValueError(
                f"skip_norm: got {skip_norm!r}; wanted a multiple of the median norm, {AS_TRAINED!r}, or None"
            )
        return as_trained(getattr(sae, "metadata", {}))
    of_tokens = TokenFilter(skip_positions, skipped_ids(model, skip_tokens))

    def measured():
        for row in spread(rows, SAMPLED * np.shape(rows.tokens)[1]):
            tokens = torch.from_numpy(np.asarray(rows.tokens[row : row + 1]).astype(np.int64))
            counts = of_tokens.by_token(tokens.numpy())
            parts = by_hook(model, *read_and_target(model, tokens, hook_name))
            yield [part[counts.to(part.device)] for part in parts]

    return NormLimit.measured(skip_norm, measured())


def shared_limit(saes: Sequence[Dictionary]) -> NormLimit | None:
    """The limit with which all of these were trained; None where they differ: read side by side, they see one text."""
    limits = {as_trained(sae.metadata) for sae in saes}
    return limits.pop() if len(limits) == 1 else None


_TEXTS = 128  # rows of one text each for one of many tokens


def rows_at_a_time(model: LanguageModel, contexts: int) -> int:
    """Rows of a block."""
    return contexts * (_TEXTS if of_texts(model) else 1)


def own_rows(select: np.ndarray, model: LanguageModel, contexts: int, peers: Peers) -> np.ndarray:
    """Those of the chosen rows that this process reads: consecutive blocks, cut as those of a single process."""
    size = rows_at_a_time(model, contexts)
    blocks = part_of(-(-len(select) // size), peers)
    return select[blocks.start * size : blocks.stop * size]


@torch.no_grad()
def blocks(
    sae: Dictionary,
    model: LanguageModel,
    hook_name: str,
    rows: Rows,
    *,
    losses: bool = False,
    baselines: dict[Any, tuple[Tensor, Tensor]] | None = None,
    mean: Tensor | None = None,
    select: np.ndarray | None = None,
    done: int = 0,
    contexts: int = 16,
    skip_positions: int = 1,
    skip_tokens: SkipTokens = BY_NAME,
    progress: str | None = None,
    limit: NormLimit | str | None = AS_TRAINED,
    may_be_empty: bool = False,
) -> Iterator[Block]:
    """Yield the text block by block, in order.

    Args:
        losses: also run the whole model three times: untouched, with the reconstruction in place of the activation,
            with zeros in its place. The activation is the one that is reconstructed (``joined.target_of``). What is
            left out keeps its own activation in all three. A model without next token is not run; its blocks have the
            reconstruction alone.
        baselines: keeps the losses that do not depend on the dictionary, untouched and with zeros: passes over the same
            rows that share the dict compute them once.
        mean: [d_out]; with the losses, also those with this in place of the activation, and all divergences
            (``Losses``): one run of the model more. ``baselines``, which hold no predictions, are then not used.
        select: the rows to read (default all). Places count over all rows all the same.
        done: how many of the chosen rows an earlier pass has read; this one goes on behind them.
        contexts: rows per block.
        skip_positions: leading positions of every row that are left out.
        skip_tokens: left out wherever they stand: ids, ``"bos"``, ``"pad"``.
        progress: label of the progress bar; None shows none.
        limit: tokens whose activations are beyond it are left out too; "as trained": beyond that of the dictionary's
            training, if it had one. Several dictionaries read side by side need the same, ``shared_limit``.
        may_be_empty: whether rows without any token that counts are no error.

    Raises:
        ValueError: the SAE does not fit the hook, or there is nothing to read or nothing that counts.
    """
    check(sae, model, hook_name, rows, skip_positions)
    limit = as_trained(getattr(sae, "metadata", {})) if isinstance(limit, str) else limit
    if losses and not isinstance(model, Joined):
        check_reconstructs(sae)
    sae = in_unit_rows(sae)
    written, hook_out = target_of(model, hook_name)
    predicts = predicts_next(written)
    counts = TokenFilter(skip_positions, skipped_ids(model, skip_tokens), limit)
    select = np.arange(len(rows.tokens)) if select is None else np.asarray(select)
    contexts = rows_at_a_time(model, contexts)
    length, scored_any, left_out = np.shape(rows.tokens)[1], False, 0
    show = {"unit": "tok", "unit_scale": True, "desc": progress, "disable": progress is None}
    with tqdm(total=len(select) * length, initial=done * length, **show) as bar:
        for start in range(done, len(select), contexts):
            run = select[start : start + contexts]
            tokens = torch.from_numpy(np.asarray(rows.tokens[run]).astype(np.int64))
            source = torch.from_numpy(np.asarray(rows.source[run]).astype(np.int64))
            by_token = counts.by_token(tokens.numpy())
            if not by_token.any():  # padding only
                bar.update(tokens.numel())
                continue
            if losses or limit is not None:
                activations, targets = read_and_target(model, tokens, hook_name)
            else:
                activations = targets = model.activations(tokens, hook_name)
            scored = counts.by_norm(by_token, by_hook(model, activations, targets))
            left_out += int(by_token.sum() - scored.sum())
            if not scored.any():
                bar.update(tokens.numel())
                continue
            scored_any = True
            x = _scored(activations, scored, sae)
            code, target, reconstruction, measured = sae.encode(x), None, None, None
            if losses:
                target = x if targets is activations else _scored(targets, scored, sae)
                # A skip connection reads x too.
                reconstruction = sae.decode(code) if sae.cfg.reconstructs_its_input else sae(x)
                put = _swap(hook_out, targets, scored)
                if mean is not None:
                    measured = _compared(written, tokens, put, [reconstruction, torch.zeros_like(target), mean])
                elif predicts:
                    kept, key = {} if baselines is None else baselines, (start, limit)
                    if key not in kept:
                        zero = written.token_losses(tokens, put(torch.zeros_like(target)))
                        kept[key] = written.token_losses(tokens, None), zero
                    with_sae = written.token_losses(tokens, put(reconstruction))
                    measured = Losses(clean=kept[key][0], sae=with_sae, zero=kept[key][1])
            values, features, at = entries(code)
            yield Block(
                row=torch.from_numpy(run.astype(np.int64)),
                tokens=tokens,
                source=source[scored],
                where=scored.flatten().nonzero().flatten(),
                x=x,
                target=target,
                reconstruction=reconstruction,
                values=values,
                features=features,
                at=at,
                negative=_places(code, code.values.reshape(-1) < 0),
                losses=measured,
                left_out=left_out,
            )
            left_out = 0
            bar.update(tokens.numel())
    if not scored_any and not done and len(select) and not may_be_empty:
        raise nothing_counts(len(select), counts)


def nothing_counts(rows: int, counts: TokenFilter) -> ValueError:
    """What to raise where every token of so many rows is left out."""
    beyond = "" if counts.limit is None else f", and {counts.limit}"
    return ValueError(
        f"skip_tokens: every token of these {rows} rows is left out (the first {counts.positions} of each, "
        f"and ids {list(counts.ids)}{beyond}); wanted at least one that counts. Leave out fewer."
    )


def _scored(activations: Tensor, scored: Tensor, sae: Dictionary) -> Tensor:
    """Those of the scored tokens, fp32 [N, D], where the dictionary is."""
    return activations[scored.to(activations.device)].to(sae.W_dec.device, torch.float32)


def _swap(
    hook_name: str, activations: Tensor, scored: Tensor
) -> Callable[[Tensor], dict[str, Callable[[Tensor], Tensor]]]:
    """A function: scored activations, [N, D] or one for all [D] → the replacement that puts them at the hook."""

    def put(x: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
        whole = activations.clone()
        whole[scored.to(whole.device)] = x.to(whole)
        # The model may leave out the last token, which predicts nothing.
        return {hook_name: lambda a: whole[:, : a.shape[1]].to(a)}

    return put


def _compared(model: Any, tokens: Tensor, put: Callable[[Tensor], Any], instead: list[Tensor]) -> Losses:
    (clean, sae, zero, mean), divergences = model.compared_losses(tokens, [put(x) for x in instead])
    kl_sae, kl_zero, kl_mean = divergences
    return Losses(clean=clean, sae=sae, zero=zero, mean=mean, kl_sae=kl_sae, kl_zero=kl_zero, kl_mean=kl_mean)


@torch.no_grad()
def mean_activation(
    sae: Dictionary,
    model: LanguageModel,
    hook_name: str,
    rows: Rows,
    select: np.ndarray,
    skip_positions: int,
    skip_tokens: SkipTokens,
    limit: NormLimit | None,
    peers: Peers = ALONE,
) -> Tensor | None:
    """The mean of the activation that is reconstructed, fp32 [d_out], over up to 64 of the chosen rows.

    None where nothing in them counts.

    Args:
        peers: processes that divide these rows among them.
    """
    counts = TokenFilter(skip_positions, skipped_ids(model, skip_tokens), limit)
    some = select[np.arange(min(SAMPLED, len(select))) * len(select) // max(1, min(SAMPLED, len(select)))]
    total = torch.zeros(len(sae.b_dec), dtype=torch.float64, device="cpu")

    def read() -> int:
        number = 0
        for row in some[part_of(len(some), peers)]:
            tokens = torch.from_numpy(np.asarray(rows.tokens[row : row + 1]).astype(np.int64))
            activations, targets = read_and_target(model, tokens, hook_name)
            scored = counts.by_norm(counts.by_token(tokens.numpy()), by_hook(model, activations, targets))
            total.add_(targets[scored.to(targets.device)].double().sum(0).cpu())
            number += int(scored.sum())
        return number

    number = sum(peers.each(read))
    peers.add_(total)
    return (total / number).float() if number else None
