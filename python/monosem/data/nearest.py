"""Suggestions for a name that does not exist: the one place that decides which names are similar."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, names: Iterable[str], n: int = 3) -> list[str]:
    """At most n of ``names`` that are spelled like ``name``, the most similar first, ignoring case."""
    by_lower = {other.lower(): other for other in reversed(list(names))}  # of two that differ in case, the first
    return [by_lower[match] for match in difflib.get_close_matches(name.lower(), by_lower, n=n, cutoff=0.5)]


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` to put behind a message, or nothing where no name is alike."""
    matches = nearest(name, names)
    return f" Did you mean {' or '.join(map(repr, matches))}?" if matches else ""
