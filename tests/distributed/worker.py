"""What test_several.py runs in groups of 2 and of 4 processes; each writes down what came out.

    python worker.py FOLDER

It forks them, so that PyTorch is imported once.
"""

import os
import sys
import traceback
from functools import lru_cache
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny
from fake_model import HOOK, FakeModel, numbered

import monosem as ms
from monosem.analysis.index import IndexSettings, build_index, cooccurrence
from monosem.analysis.index.collector import Collector
from monosem.analysis.inputs import Subject
from monosem.analysis.metrics import evaluate
from monosem.data import harvest as harvesting
from monosem.data.harvest import harvest
from monosem.data.store import ActivationStore
from monosem.data.token_rows import pack_rows
from monosem.distributed import lost, ranks
from monosem.distributed.peers import ALONE
from monosem.distributed.wire import timeout_of
from monosem.train.distributed import mesh

SIZES = (2, 4)
ROWS = 37  # contexts: ten shards of four, the last of one


def harvested(folder, peers=ALONE, rows=ROWS, model=None, **options):
    options = {"progress": False, "skip_norm": 1.5} | options
    with mock.patch.object(harvesting, "_per_shard", lambda *_: 4):
        return harvest(model or FakeModel(), HOOK, numbered(rows), folder, "bf16", peers=peers, **options)


def refused(act):
    """What an error says; "" where there is none."""
    try:
        act()
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


class Breaks(FakeModel):
    """Raises at a forward pass."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def activations(self, tokens, hook_name):
        if self.forwards == self.at:
            raise ValueError("the model broke")
        return super().activations(tokens, hook_name)


def harvests(peers, out):
    """A whole one; one that a rank broke off, and went on; the position of what the others were told."""
    found = {}
    model = FakeModel()
    store = harvested(out / "whole", peers, model=model)
    found["forwards"], found["stored"] = model.forwards, store.n_stored
    broken = Breaks(1 if peers.rank == 1 else -1)
    found["broken"] = refused(lambda: harvested(out / "parts", peers, model=broken, skip_norm=None))
    found["incomplete"] = refused(lambda: ActivationStore(out / "parts"))
    model = FakeModel()
    harvested(out / "parts", peers, model=model, skip_norm=None)
    found["missing"] = model.forwards
    rows = ROWS - (peers.rank == 1)
    found["other text"] = refused(lambda: harvested(out / "other", peers, rows=rows))
    found["other folder"] = refused(lambda: harvested(out / f"other {peers.rank == 1}", peers))
    return found


@lru_cache
def text(copies=16):
    """A model, and rows of text for it, of several sources."""
    model = tiny.tiny_model()
    return model, pack_rows(tiny.tiny_documents(copies), model)


DICTIONARIES = {
    "topk": lambda: ms.TopKSAE(32, 96, k=4, seed=1),
    "negative": lambda: ms.AbsTopKSAE(32, 96, k=4, seed=1),
    "relu": lambda: ms.ReLUSAE(32, 96, l1_coefficient=0.0, seed=1),
}


@lru_cache
def evaluated(kind, peers=ALONE, **options):
    model, rows = text()
    options = {"contexts": 4, "progress": False, "skip_norm": 1.1} | options
    return evaluate(DICTIONARIES[kind](), model, HOOK, rows, peers=peers, **options)


EVALUATED = {2: ("topk", "negative", "relu"), 4: ("topk",)}


def evaluations(peers):
    found = {kind: evaluated(kind, peers).to_dict() for kind in EVALUATED[peers.size]}
    found["few rows"] = evaluated("topk", peers, tokens=32 * 5).to_dict()  # fewer blocks than four processes
    found["nothing"] = refused(lambda: evaluated("topk", peers, skip_tokens=range(300), skip_norm=None))
    seed = 1 + (peers.rank == 1)
    model, rows = text()
    other = ms.TopKSAE(32, 96, k=4, seed=seed)
    found["other"] = refused(lambda: evaluate(other, model, HOOK, rows, peers=peers, progress=False))
    return found


INDEXES = {  # partners of every pair, or the commonest; codes kept, or not
    "exact": ("topk", {}),
    "commonest": ("topk", {"slots": 3}),
    "relu": ("relu", {"codes": False, "slots": 3}),
}


INDEXED = {2: ("exact", "commonest", "relu"), 4: ("exact",)}  # the commonest at 4: what was broken off


def indexed(case, folder, peers=ALONE, seconds=60.0):
    kind, options = INDEXES[case]
    kept = {"top": 3, "random": 5, "each": 2, "slots": 4, "contexts": 4, "skip_norm": 1.1}
    settings = IndexSettings(**(kept | options))
    model, rows = text()
    exact = cooccurrence.EXACT_BYTES if case == "exact" else 0
    with mock.patch.object(cooccurrence, "EXACT_BYTES", exact):
        subject = Subject(DICTIONARIES[kind](), model, HOOK)
        return build_index(
            subject, rows, folder, settings=settings, progress=False, peers=peers, checkpoint_seconds=seconds
        )


def indexes(peers, out):
    """Whole ones; one that a rank broke off, and went on."""
    found = {}
    with mock.patch("monosem.distributed.peers.PART", 1 << 12):
        for case in INDEXED[peers.size]:
            indexed(case, out / case, peers)
    update, blocks = Collector.update, []

    def breaks(self, block):
        blocks.append(block)
        if peers.rank == 1 and len(blocks) == 2:
            raise ValueError("the disk broke")
        update(self, block)

    with mock.patch.object(Collector, "update", breaks):
        found["broken"] = refused(lambda: indexed("commonest", out / "parts", peers, 0.0))
    read = len(blocks)
    found["alone"] = refused(lambda: indexed("commonest", out / "parts")) if peers.is_first else ""
    peers.objects(None)
    blocks.clear()
    with mock.patch.object(Collector, "update", lambda *given: (blocks.append(0), update(*given))):
        indexed("commonest", out / "parts", peers)
    found["blocks"] = read, len(blocks)
    found["memory"] = refused(lambda: indexed("exact", None, peers))
    return found


class Undivided:
    """A store of which every process reads whole batches."""

    def __init__(self, store):
        self.store = store

    def __iter__(self):
        return iter(self.store)


def shares(out):
    """Weights after training on whole batches, and on shares of them; bytes that were read."""
    where, found = mesh.make((2, dist.get_world_size() // 2)), {}
    plan = ms.ResampleConfig(at_steps=(20,), window=1, n_inputs=40)
    config = ms.TrainConfig(lr=1e-3, batch_size=19, steps=90, resample=plan)
    for divided in (False, True):
        store = ActivationStore(out / "parts", 19, seed=1, epochs=None, skip_norm=None)
        trainer = ms.Trainer(ms.TopKSAE(5, 24, k=2, aux_k=4, seed=0), config, mesh=where, progress=False)
        trainer.fit(store if divided else Undivided(store))
        found[divided] = [p.detach().clone() for p in trainer.dictionary().parameters()], store.bytes_read
    return found


def sums(peers):
    """The sum over processes of arrays of which each has another, in one part and in several."""
    several = []
    for part in (1 << 26, 64):
        with mock.patch("monosem.distributed.peers.PART", part):
            for shape in ((), (3,), (7, 5)):
                x = torch.full(shape, float(peers.rank + 1), dtype=torch.float64)
                peers.add_(x)
                several.append(x)
    return several


def run(rank, size, folder):
    store = dist.FileStore(str(folder / f"store.{size}"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timeout_of(300))
    peers, out = ranks.of_all(), folder / str(size)
    record = {"sums": sums(peers), "harvests": harvests(peers, out), "evaluations": evaluations(peers)}
    record["shares"] = shares(out)
    record["indexes"] = indexes(peers, out / "indexes")
    torch.save(record, folder / f".{size}.{rank}.pt")
    (folder / f".{size}.{rank}.pt").rename(folder / f"{size}.{rank}.pt")
    if size == 2:
        lose_the_last(peers, folder)
    dist.destroy_process_group()


class Ends(FakeModel):
    """Ends its process at the second forward pass, without a word."""

    def activations(self, tokens, hook_name):
        if self.forwards == 1:
            os._exit(0)
        return super().activations(tokens, hook_name)


def lose_the_last(peers, folder):
    """Rank 1 ends in the middle of a harvest; rank 0 writes down what it is told."""
    lost.PATIENCE = 1.0
    model = Ends() if peers.rank else FakeModel()
    said = refused(lambda: harvested(folder / "lost", peers, model=model, skip_norm=None))
    (folder / ".said").write_text(said)
    (folder / ".said").rename(folder / "said of the lost")
    os._exit(0)


def main():
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    children = []
    for size in [int(n) for n in sys.argv[2:]] or SIZES:
        for rank in range(size):
            if child := os.fork():
                children.append(child)
                continue
            try:
                run(rank, size, folder)
            except BaseException:
                (folder / f"failed.{size}.{rank}").write_text(traceback.format_exc())
                os._exit(1)
            os._exit(0)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
