"""Will it fit: an estimate of the memory that training needs, before it begins."""

from __future__ import annotations

from pathlib import Path

import torch


def bytes_needed(d_in: int, d_sae: int, batch_size: int, *, ema: bool = False, built: bool = False) -> int:
    """Bytes that training takes beyond what is in use now: an estimate, on the low side.

    Parameters P = 2·F·D + F + D in fp32 once (0 if ``built``, that is allocated already), twice more for Adam and
    once for the EMA; a bf16 copy of the encoder; and six arrays of the size of a batch, N·D.
    """
    parameters = 2 * d_sae * d_in + d_sae + d_in
    copies = (not built) + 2 + ema
    return 4 * parameters * copies + 2 * d_sae * d_in + 6 * 4 * batch_size * d_in


def bytes_available(device: torch.device) -> int | None:
    """Free memory of ``device``; None where the system does not say. On a CPU: MemAvailable, and the cgroup's limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        limit, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text().strip() for name in ("max", "current"))
        found += [max(0, int(limit) - int(used))] if limit != "max" else []
    except (OSError, ValueError):
        pass  # not Linux, or no limit: whatever was found so far stands
    return min(found) if found else None


def check_fits(needed: int, device: torch.device, what: str) -> None:
    """Raises ValueError when ``needed`` bytes are more than ``device`` has free; says how much is wanted."""
    available = bytes_available(device)
    if available is not None and needed > available:
        raise ValueError(
            f"d_sae: {what} needs about {_gib(needed)} more memory on {device} and {_gib(available)} are free; "
            "wanted a dictionary that fits. Choose a smaller d_sae (memory grows in proportion), fewer "
            "autoencoders at a time, or a machine with more memory."
        )


def _gib(n: int) -> str:
    return f"{n / 2**30:,.1f} GiB"
