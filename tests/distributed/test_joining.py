"""Processes that torchrun starts again find each other, and not those of the attempt before."""

from datetime import timedelta
from threading import Thread

import pytest
import torch.distributed as dist

from monosem.distributed.joining import agreed

SOON, LONG = timedelta(seconds=0.2), timedelta(seconds=60)


def attempt(store, size, timeout=LONG):
    """What each of so many processes, here threads, agrees on."""
    found = {}

    def one(rank):
        found[rank] = agreed(store, rank, size, timeout)

    threads = [Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in reversed(threads):  # the first one last: it finds what the others have written down
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_each_attempt_has_a_part_of_the_store_of_its_own():
    store, names = dist.HashStore(), []
    for _ in range(3):
        found = attempt(store, 3)
        assert len(found) == 3
        assert len(set(found.values())) == 1
        names.append(found[0])
        # Killed between its first word and the confirmation, in the attempt before the next.
        store.set("monosem/here/2", "one that has ended")
    assert len(set(names)) == 3


@pytest.mark.parametrize(
    ("rank", "said"), [(0, "rank 1, rank 2 did not start within 0.2"), (1, "rank 0 did not start")]
)
def test_one_that_does_not_come_is_named(rank, said):
    with pytest.raises(RuntimeError, match=said):
        agreed(dist.HashStore(), rank, 3, SOON)
