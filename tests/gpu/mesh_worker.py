"""A process of a mesh of GPUs (or, to try this file, of CPUs): it trains some dictionaries and writes their weights.

python mesh_worker.py FOLDER RANK RANKS cuda
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

import monosem as ms
from monosem.data.synthetic import SyntheticDictionary
from monosem.distributed.wire import timeout_of
from monosem.train.distributed import mesh

D, F, N = 64, 515, 128
CONFIG = ms.TrainConfig(lr=1e-3, batch_size=N, steps=20, dead_after=500, checkpoint_every=10)
MAKE = {
    "topk": lambda: ms.TopKSAE(D, F, k=8, aux_k=16, seed=0),
    "batch_topk": lambda: ms.BatchTopKSAE(D, F, k=8, seed=0),
    "relu": lambda: ms.ReLUSAE(D, F, 3e-3, seed=0),
}


def trained(kind, device, where=None, folder=None):
    source = [x.to(device) for x in _batches()]
    return ms.Trainer(MAKE[kind]().to(device), CONFIG, folder, progress=False, mesh=where).fit(source)


def _batches():
    source = iter(SyntheticDictionary(D, 96, 6, batch_size=N, noise=0.02))
    return [next(source) for _ in range(CONFIG.steps)]


def rows(sae):
    """Name: (the parameter here, whether it has an entry per feature)."""
    declared = sae.declared()
    return {n: (p.detach().cpu(), declared[n].per_feature) for n, p in sae.named_parameters()}


def main():
    folder, rank, ranks, kind = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    device = torch.device(kind, rank) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    store = dist.FileStore(str(folder / "store"), ranks)
    backend = "nccl" if kind == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=timeout_of(120))
    found = {}
    for shape in ((1, ranks), (ranks, 1)):
        where = mesh.make(shape, kind)
        for name in MAKE:
            found[shape, name] = rows(trained(name, device, where).dictionary())
        run = folder / f"{shape[0]}x{shape[1]}"
        trained("topk", device, where, run)
        found[shape, "resumed"] = rows(resumed(run, device, where))
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


def resumed(run, device, where):
    """The same run once more from the step in its middle."""
    trainer = ms.Trainer(MAKE["topk"]().to(device), CONFIG, run, progress=False, mesh=where)
    return trainer.fit([x.to(device) for x in _batches()], resume=10).dictionary()


if __name__ == "__main__":
    main()
