"""How much memory is available, checked before an allocation."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

try:
    import resource
except ImportError:  # a system without POSIX' limits
    resource = None


def human_bytes(count: float) -> str:
    """``"1.5 GB"``; powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that can still be allocated without swapping, as far as the system tells.

    The least of: what the machine has, what every control group of this process and every group above them leaves
    (versions 1 and 2), and this process's own limits. Cached file content that is not in use counts as free.
    A system that tells nothing of this (Windows) has ``sys.maxsize``: nothing is refused there.

    Args:
        root: where ``/proc`` and ``/sys`` are looked for.
    """
    return max(0, min([_machine(root), *_groups(root), *_own_limits(root)]))


def _machine(root: Path) -> int:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return total_memory() or sys.maxsize


def total_memory() -> int | None:
    """Bytes of memory in this machine; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # no sysconf, or none of these names
        return None


def _own_limits(root: Path) -> Iterator[int]:
    """The bytes that ``ulimit -v`` and ``ulimit -d`` leave."""
    if resource is None:
        return
    sizes = _read(root / "proc/self/statm").split()
    for limit, field in ((resource.RLIMIT_AS, 0), (resource.RLIMIT_DATA, 5)):
        most = resource.getrlimit(limit)[0]
        if most != resource.RLIM_INFINITY and len(sizes) > field:
            yield most - int(sizes[field]) * resource.getpagesize()


def _groups(root: Path) -> Iterator[int]:
    """The bytes that each control group leaves: this process's own and all above it, up to the mounted one."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers == "" or "memory" in controllers.split(","):
            for mount, mounted in _mounts(root, old=controllers != ""):
                # In a container the mounted group may be its own, while its name is the one outside.
                inside = name[len(mounted) :] if name.startswith(mounted) else name
                steps = [step for step in inside.split("/") if step not in ("", "..")]
                for depth in range(len(steps), -1, -1):
                    left = _left(mount.joinpath(*steps[:depth]), old=controllers != "")
                    if left is not None:
                        yield left


def _mounts(root: Path, old: bool) -> list[tuple[Path, str]]:
    """(where the groups of a version are mounted, which group that is)."""
    mounted = []
    for line in _read(root / "proc/self/mountinfo").splitlines():
        head, _, tail = line.partition(" - ")
        fields, kind = head.split(), tail.split()
        if (
            len(fields) > 4
            and kind
            and (kind[0] == "cgroup" and "memory" in kind[-1].split(",") if old else kind[0] == "cgroup2")
        ):
            mounted.append((root / fields[4].lstrip("/"), fields[3].rstrip("/")))
    usual = root / ("sys/fs/cgroup/memory" if old else "sys/fs/cgroup")
    return mounted or [(usual, "")]


def _left(group: Path, old: bool) -> int | None:
    """Limit − usage + file content that can be dropped at once; None where there is no limit."""
    limit, used, dropped = (
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        if old
        else ("memory.max", "memory.current", "inactive_file")
    )
    most, now = _read(group / limit).strip(), _read(group / used).strip()
    if not (most.isdecimal() and now.isdecimal()):  # "max", or no such group
        return None
    stat = dict(line.split(" ", 1) for line in _read(group / "memory.stat").splitlines() if " " in line)
    return int(most) - int(now) + int(stat.get(dropped, 0))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # another system, or not for us to see
        return ""


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
