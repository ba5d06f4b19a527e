"""The inputs of a result, recorded in its JSON; an earlier result of other inputs is set aside."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def of(args: argparse.Namespace, runs: Mapping[str, tuple[str | Path, Any]]) -> dict[str, Any]:
    """The text and the dictionaries, with a digest of each.

    Args:
        args: ``text``, ``split`` and, where the command has them, ``tokens``, ``context``, ``skip_positions`` and
            ``skip_tokens``. Without a ``text`` none was read.
        runs: {name in the result: (folder, subject)}.
    """
    from monosem.data import fingerprint

    origin: dict[str, Any] = {}
    if getattr(args, "text", None) is not None:
        origin |= fingerprint.of_text(args.text)
        for name in ("split", "tokens", "context", "skip_positions", "skip_tokens"):
            if hasattr(args, name):
                value = getattr(args, name)
                origin[name] = list(value) if isinstance(value, tuple) else value
    return origin | {"dictionaries": {name: _dictionary(folder, subject) for name, (folder, subject) in runs.items()}}


def _dictionary(folder: str | Path, subject: Any) -> dict[str, Any]:
    from monosem.analysis.index import fingerprint as of_index
    from monosem.data import fingerprint

    return {
        "folder": str(folder),
        "sha256": of_index.of_dictionary(subject.sae),
        "model": subject.model.name,
        "weights": fingerprint.of_model(subject.model),
        "hook_name": subject.hook_name,
    }


def set_aside(path: Path, mine: Mapping[str, Any]) -> Path | None:
    """Rename the result at ``path`` if it is of other text, other dictionaries or more tokens, so that it is kept.

    Returns:
        That name: ``proxies.1.json`` for ``proxies.json``. None where nothing is lost: there is no result, none that
        can be read, the same one, one of less text, or one of these dictionaries before they were trained further.
    """
    from monosem.data import sealed

    try:
        there = sealed.read(path, "out", "a result", note=False)[0].get("made_from")
    except (OSError, ValueError):
        return None
    if not isinstance(there, dict) or not _worth_keeping(there, mine):
        return None
    number = 1
    while (kept := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    path.replace(kept)
    return kept


def _worth_keeping(there: Mapping[str, Any], mine: Mapping[str, Any]) -> bool:
    other = [n for n in ("sha256", "split", "context") if n in there and n in mine and there[n] != mine[n]]
    more = (there.get("tokens") or float("inf")) > (mine.get("tokens") or float("inf"))
    return bool(other) or more or _others(there.get("dictionaries", {}), mine.get("dictionaries", {}))


def _others(there: Mapping[str, Any], mine: Mapping[str, Any]) -> bool:
    """Whether the dictionaries are others, in other folders or of other models."""
    from monosem.data import fingerprint

    if there.keys() != mine.keys():
        return bool(there)
    for name, held in there.items():
        now = mine[name]
        moved = Path(held.get("folder", "")).resolve() != Path(now["folder"]).resolve()
        if (moved and held.get("sha256") != now["sha256"]) or held.get("hook_name") != now["hook_name"]:
            return True
        if fingerprint.same_weights(held.get("weights"), now["weights"]) is False:
            return True
    return False
