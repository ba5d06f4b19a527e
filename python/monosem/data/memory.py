"""How much memory there is, asked before it is taken."""

from __future__ import annotations

import os
from pathlib import Path


def human_bytes(count: float) -> str:
    """``"1.5 GB"``; powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def available_memory() -> int:
    """Bytes that can still be allocated without swapping, as far as the system tells; a container's limit counts."""
    meminfo, found = Path("/proc/meminfo"), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found = int(line.split()[1]) * 1024
    limit, used = (Path(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit.exists() and used.exists() and (most := limit.read_text().strip()) != "max":
        found = min(found, max(0, int(most) - int(used.read_text())))
    return found


def check_memory(needed: int, what: str, option: str) -> None:
    """Raise before an allocation that cannot succeed.

    Args:
        what: plural, what would fill the memory.
        option: the name of what the user can make smaller.

    Raises:
        ValueError: says how much is needed and how much there is.
    """
    there = available_memory()
    if needed > there:
        raise ValueError(
            f"{option}: {what} need {human_bytes(needed)} of memory, this machine has {human_bytes(there)} left; "
            f"wanted a smaller {option}"
        )
