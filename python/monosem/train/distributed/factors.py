"""The gradients of all tokens, from those of the tokens of each rank: factors are exchanged, never F × D gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor

from monosem.distributed.wire import Wire
from monosem.nn.gradients import Gradients, RowFactors


def of_all_tokens(gradients: Gradients, wire: Wire) -> Gradients:
    """The gradients of a batch whose tokens are those of all ranks, in their order.

    The bytes grow with tokens, D and entries, and not with the number of features.
    """
    own = gradients.parameters
    assert isinstance(own, RowFactors)  # composed_step.may_be_dense
    return replace(gradients, parameters=_joined(own, wire), fired=_fired(gradients.fired, wire))


def _fired(own: Tensor, wire: Wire) -> Tensor:
    """Which features fired on a token of any rank; their numbers are sent, not a mark for every feature."""
    numbers = own.nonzero()[:, 0].int()
    return own.clone().index_fill_(0, torch.cat(_gathered([numbers], wire)[0]).long(), True)


def _joined(own: RowFactors, wire: Wire) -> RowFactors:
    of_entries, norms = own.of_entries, own.norms
    bias = own.slopes if own.bias is None else own.bias
    vectors = [*of_entries.values(), *([] if norms is None else [norms.coef])]
    # A rank without tokens does not know what its factors would have been.
    has = torch.tensor([own.bias is not None, own.input_of is not None], dtype=torch.int64, device=bias.device)
    any_bias, any_input_of = (bool(n) for n in wire.total(has))
    rows = own.input_of
    if rows is None:
        rows = torch.arange(len(own.inputs) if any_input_of else 0, dtype=torch.int64, device=bias.device)
    sent = [own.values, own.indices, own.slopes, own.offsets.diff().int(), own.residual, own.inputs, rows.int()]
    sent += [*vectors, *([bias] if any_bias else [])]
    got = _gathered(sent, wire)
    values, indices, slopes, lengths, residual, inputs = (torch.cat(parts) for parts in got[:6])
    firsts = list(accumulate((len(part) for part in got[5]), initial=0))
    input_of = torch.cat([part.long() + first for part, first in zip(got[6], firsts, strict=False)])
    whole = [torch.cat(parts) for parts in got[7:]]
    names = list(of_entries)
    return replace(
        own,
        values=values,
        indices=indices,
        offsets=torch.cat([own.offsets[:1], lengths.long().cumsum(0)]),
        slopes=slopes,
        residual=residual,
        inputs=inputs,
        input_of=input_of if any_input_of else None,
        of_entries=dict(zip(names, whole, strict=False)),
        norms=None if norms is None else replace(norms, coef=whole[len(names)]),
        bias=whole[-1] if any_bias else None,
        b_dec=wire.total(own.b_dec),
        others={name: wire.total(g) for name, g in own.others.items()},
    )


def _gathered(own: Sequence[Tensor], wire: Wire) -> list[list[Tensor]]:
    """Each tensor of every rank, of any length in its first axis."""
    device = own[0].device
    lengths = torch.tensor([len(t) for t in own], dtype=torch.int64, device="cpu")
    of_all = wire.gathered(lengths.to(wire.device)).cpu().T.tolist()
    got = []
    for t, sizes in zip(own, of_all, strict=True):
        padded = t.new_empty(max(sizes), *t.shape[1:])
        padded[: len(t)] = t
        parts = wire.gathered(padded)
        got.append([part[:size].to(device) for part, size in zip(parts, sizes, strict=True)])
    return got
