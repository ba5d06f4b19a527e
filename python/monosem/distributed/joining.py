"""The start of a group of processes under torchrun, also after a restart.

torchrun keeps one store for all its attempts, in which PyTorch's groups find the addresses of the attempt before: a
process that reads one too early connects to a process that is dead. So those that live agree on a new part of it.
"""

from __future__ import annotations

import time
import uuid
from datetime import timedelta

import torch.distributed as dist
from torch.distributed import distributed_c10d
from torch.distributed.rendezvous import rendezvous

POLL = 0.02  # seconds


def join(backend: str, timeout: timedelta) -> None:
    """``init_process_group`` of the processes that torchrun started last.

    Raises:
        RuntimeError: some did not come within the time; names them.
    """
    store, rank, size = next(iter(rendezvous("env://", timeout=timeout)))
    part = agreed(store, rank, size, timeout)
    dist.init_process_group(
        backend, store=distributed_c10d.PrefixStore(part, store), rank=rank, world_size=size, timeout=timeout
    )


def agreed(store: distributed_c10d.Store, rank: int, size: int, timeout: timedelta) -> str:
    """A name that the living processes have in common, and no earlier ones.

    The first one makes it, and answers to each name that another has written down. The name of a process that has ended
    may be there still: only from the living comes a confirmation.
    """
    mine, until = uuid.uuid4().hex, time.monotonic() + timeout.total_seconds()
    if rank:
        store.set(f"monosem/here/{rank}", mine)
        while not store.check([f"monosem/answer/{mine}"]):
            if time.monotonic() > until:
                raise _late("rank 0", timeout)
            time.sleep(POLL)
        name = store.get(f"monosem/answer/{mine}").decode()
        store.set(f"monosem/confirmed/{name}/{rank}", "1")
        return name
    missing = list(range(1, size))
    while missing:
        for other in missing:
            if store.check([f"monosem/here/{other}"]):
                store.set(f"monosem/answer/{store.get(f'monosem/here/{other}').decode()}", mine)
        missing = [r for r in missing if not store.check([f"monosem/confirmed/{mine}/{r}"])]
        if missing and time.monotonic() > until:
            raise _late(", ".join(f"rank {r}" for r in missing), timeout)
        time.sleep(POLL if missing else 0)
    return mine


def _late(who: str, timeout: timedelta) -> RuntimeError:
    return RuntimeError(
        f"{who} did not start within {timeout.total_seconds():g} seconds (--peer-timeout); its own messages, or the "
        "exit code that torchrun reports, say why"
    )
