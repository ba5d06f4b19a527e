"""The evaluation of a crosscoder: the figures of each of its sources, and how its features divide between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import torch

from monosem.analysis.inputs import Subject, sources_of
from monosem.analysis.joined import CrosscoderSource, target_of
from monosem.analysis.metrics import Evaluation, PlaceScore, evaluate
from monosem.analysis.scan import Block, Rows
from monosem.distributed.peers import ALONE


def evaluate_subject(
    subject: Subject, rows: Rows, *, observers: Sequence[Callable[[Block], None]] = (), **options: Any
) -> Evaluation:
    """``metrics.evaluate`` of a dictionary; of a crosscoder that of the subject's source, with ``places``.

    Each source's activation is replaced in its own model, one pass over the text per source.

    Args:
        observers: called with the blocks of the subject's source.
        options: of ``metrics.evaluate``.
    """
    if not isinstance(subject.sae, CrosscoderSource):
        return evaluate(subject.sae, subject.model, subject.hook_name, rows, observers=observers, **options)
    crosscoder, chosen = subject.sae.crosscoder, subject.sae.source
    alive = torch.zeros(crosscoder.cfg.d_sae, dtype=torch.int64, device="cpu")
    found = []
    for source, at in enumerate(sources_of(subject)):
        watching = [lambda block: alive.index_fill_(0, block.features, 1), *observers] if source == chosen else []
        found.append(evaluate(at.sae, at.model, at.hook_name, rows, observers=watching, **options))
    options.get("peers", ALONE).add_(alive)
    owners = crosscoder.owners().cpu()[alive > 0]
    places = []
    for source, (at, e) in enumerate(zip(sources_of(subject), found, strict=True)):
        model, hook_name = target_of(at.model, at.hook_name)
        figures = {name: getattr(e, name) for name in PlaceScore.__dataclass_fields__ if hasattr(e, name)}
        named = {"model": model.name, "hook_name": hook_name, "exclusive": int((owners == source).sum())}
        places.append(PlaceScore(**cast("dict[str, Any]", figures | named)))
    return replace(found[chosen], places=tuple(places))
