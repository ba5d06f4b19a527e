"""Tests that were not run, by reason; and the reasons that CI does not accept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

# For another machine, or covered by another process or file of these tests. CI must provide everything else.
ELSEWHERE = (
    "no GPU on this machine",
    "no second GPU on this machine",
    "monosem._cuda was not built",
    "no cuobjdump",
    "a product of CPUs",
    "a test of the CPU's own kernels",
    "this is the interpreter",
    "not a product of ours, or guarded where the operation is registered",
    "this process is limited itself",
)


def by_reason(reports: Iterable[Any]) -> Counter[str]:
    """How many reports of skipped tests, or of skipped modules, give each reason."""
    return Counter(_reason(report.longrepr) for report in reports)


def _reason(longrepr: Any) -> str:
    reason = longrepr[2] if isinstance(longrepr, (tuple, list)) else str(longrepr)
    return reason.removeprefix("Skipped: ")


def unaccepted(reasons: Iterable[str]) -> list[str]:
    """Those that are not of ``ELSEWHERE``."""
    return [reason for reason in reasons if not reason.startswith(ELSEWHERE)]
