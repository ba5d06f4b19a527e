"""The inputs of an evaluation, and whether it may replace the one in its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def of(
    subject: Any,
    rows: Any,
    text: str,
    split: str,
    skip_tokens: Sequence[Any],
    skip_positions: int = 1,
    tokens: int | None = None,
    skip_norm: Any = None,
) -> dict[str, Any]:
    """Everything that the figures depend on, for ``evaluation.json``; compared before the work is done."""
    from monosem.analysis.index import fingerprint as of
    from monosem.analysis.scan import spread
    from monosem.data import fingerprint
    from monosem.data.norm_limit import AS_TRAINED, as_trained

    if skip_norm == AS_TRAINED:
        limit = as_trained(subject.sae.metadata)
        skip_norm = None if limit is None else limit.to_json()
    beyond = {} if skip_norm is None else {"skip_norm": skip_norm}
    return beyond | {
        "dictionary": of.of_dictionary(subject.sae),
        "model": subject.model.name,
        "weights": fingerprint.of_model(subject.model),
        "hook_name": subject.hook_name,
        "text": text,
        "split": split,
        "rows": of.of_text(rows),
        "contexts": len(spread(rows, tokens)),
        "skip_positions": skip_positions,
        "skip_tokens": list(skip_tokens),
    }


def check_replaces(path: Path, mine: dict[str, Any]) -> None:
    """Raises ValueError where ``path`` holds an evaluation of something else, or of more contexts.

    A dictionary that was trained further makes the old evaluation in its own folder out of date, so that it may be
    replaced. A file that is no evaluation any more is nothing to lose.
    """
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return
    if not isinstance(held, dict) or not isinstance(there := held.get("made_from", held), dict):
        return
    from monosem.data import fingerprint

    retrained = there.get("dictionary", mine["dictionary"]) != mine["dictionary"]
    if retrained and (path.parent / "cfg.json").is_file():
        return
    beside = ("contexts", "text", "split")  # how many is compared below; the rest is in the digest of the rows
    differing = [name for name in fingerprint.different(there, mine) if name not in beside]
    if not differing and not there.get("contexts", 0) > mine["contexts"]:
        return
    what = "; ".join(f"{n}: {there[n]!r} there, {mine[n]!r} here" for n in differing)
    fewer = f"{there.get('contexts')} contexts there, {mine['contexts']} here"
    raise ValueError(
        f"out: {str(path)!r} holds another evaluation ({what or fewer}); wanted the same, or one of more text. Write "
        "this one elsewhere with --out FOLDER, or replace that one with --replace."
    )
