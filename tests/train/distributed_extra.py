"""What ``distributed_worker.py`` does beside training each case: runs that change the number of processes, warm starts,
counted bytes, and processes that are lost."""

import argparse
import os
import shutil
import signal
import time
from dataclasses import replace

import distributed_worker as worker
import numpy as np
import torch
import torch.distributed as dist

import monosem as ms
from monosem.distributed.wire import timeout_of
from monosem.train import checkpoint
from monosem.train.distributed import mesh

# The mesh: the runs that it goes on with from step 8.
RESUMED = {
    "1x2": [("1x1", "topk"), ("1x4", "topk"), ("2x2", "topk averaged")],
    "2x2": [("1x2", "topk")],
}
STARTED = {"1x2": ["1x1", "1x4"], "2x2": ["1x2"]}  # likewise, runs whose weights a new run takes
WIDTHS, COUNTED = (256, 1024), {"n": 256, "d": 128, "k": 8, "aux_k": 24}
HANGS = 3.0  # --peer-timeout of the processes of which one hangs


def written(folder, name, record):
    torch.save(record, folder / f".{name}")
    (folder / f".{name}").rename(folder / name)


def waited_for(path):
    until = time.monotonic() + 300
    while not path.exists():
        assert time.monotonic() < until, path
        time.sleep(0.02)
    return path


def changed(where, shape, rank, folder):
    """Runs of other numbers of processes: resumed here, and new ones that begin with their weights."""
    found = {"resumed": {}, "started": {}}
    if rank == 0 and shape == "1x2":
        worker.trained("topk", folder / "1x1" / "topk")
        (folder / "1x1.0.pt").touch()
    waited_for(folder / "1x1.0.pt")
    for before, case in RESUMED[shape]:
        run = folder / f"{case} of {before} on {shape}"
        waited_for(folder / f"{before}.0.pt")
        if rank == 0:
            shutil.copytree(folder / before / case, run)
        dist.barrier()
        found["resumed"][before, case] = worker.weights(worker.trained(case, run, where, resume=8)[0])
    for before in STARTED[shape]:
        for moments in (False, True):
            found["started"][before, moments] = worker.weights(started(folder / before / "topk", moments, where))
    result = folder / f"result.{shape}"
    if rank == 0:
        ms.save(ms.load(folder / "1x1" / "topk"), result)
    dist.barrier()
    found["started"]["result"] = worker.weights(started(result, False, where))
    found["refused"] = refused(where, shape, rank, folder)
    written(folder, f"changed.{shape}.{rank}.pt", found)


def started(run, moments, where=None):
    """Four steps from the weights of a run."""
    config = replace(worker.CONFIG, steps=4, adam_state="fp32")
    sae = worker.MAKE["topk"]()
    return ms.Trainer(sae, config, start=run, moments=moments, progress=False, mesh=where).fit(worker.source())


def refused(where, shape, rank, folder):
    """What is said of warm starts and folders that do not go."""
    start = lambda sae, run, **settings: worker.refused(
        lambda: ms.Trainer(sae, replace(worker.CONFIG, **settings), start=run, moments=bool(settings), mesh=where)
    )
    seen = folder / f"seen by {rank} of {shape}"
    if rank == 0:
        shutil.copytree(folder / "1x1" / "topk", seen)
    said = {
        "d_sae": start(ms.TopKSAE(worker.D, worker.F + 1, k=4, seed=0), folder / "1x1" / "topk"),
        "moments": start(worker.MAKE["topk"](), folder / "1x1" / "topk", adam_state="int8"),
        "folder": worker.refused(lambda: worker.trained("topk", seen, where)),
        "start": start(worker.MAKE["topk"](), seen),
    }
    if shape == "1x2":
        said["text"] = unseen_text(where, rank, folder / "tokens.npy")
        said["disk"] = full_disk(where, rank, folder / "full disk")
    return said


def unseen_text(where, rank, tokens):
    """What `monosem train` says in each process where one does not see the text."""
    from monosem.cli import train

    if rank == 0:
        np.save(tokens, np.ones((4, 256), np.int64))
    dist.barrier()
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    seen = tokens if rank != 1 else tokens.with_name("not here.npy")
    return worker.refused(lambda: train._train(parser.parse_args(["--out", "no", "--tokens", str(seen)]), where))


def full_disk(where, rank, run):
    """What is said where one process cannot write its part of the second checkpoint, and the steps that are left."""
    from torch.distributed.checkpoint.filesystem import FileSystemWriter

    write = FileSystemWriter.write_data

    def write_data(writer, plan, planner):
        if rank == 1 and ".ckpt-8.part" in str(writer.path):
            raise OSError(28, "No space left on device")
        return write(writer, plan, planner)

    FileSystemWriter.write_data = write_data
    try:
        return worker.refused(lambda: worker.trained("topk", run, where)), checkpoint.saved_steps(run)
    finally:
        FileSystemWriter.write_data = write


def other_version(where, rank):
    """What is said where a process has another version of the package."""
    import monosem

    before, monosem.__version__ = monosem.__version__, monosem.__version__ + (".1" if rank else "")
    try:
        return worker.refused(lambda: ms.Trainer(worker.MAKE["topk"](), worker.CONFIG, mesh=where))
    finally:
        monosem.__version__ = before


def bytes_per_step(where):
    """By (features, whether AuxK is at work): what this rank sends in a step, on all axes together."""
    found, c = {}, COUNTED
    for features in WIDTHS:
        for aux_k in (0, c["aux_k"]):
            config = replace(worker.CONFIG, dead_after=10**6, batch_size=c["n"])
            sae = ms.TopKSAE(c["d"], features, k=c["k"], aux_k=aux_k, seed=0)
            trainer = ms.Trainer(sae, config, mesh=where)
            x = torch.randn(c["n"], c["d"], generator=torch.Generator().manual_seed(1))
            trainer.step(x)
            trainer.learners[0].dead.tokens_since_fired[::2] = 10**9
            shard = trainer.learners[0].sae.shard
            wires = {shard.features, shard.data, shard.world}
            before = sum(wire.sent for wire in wires)
            trainer.step(x)
            found[features, bool(aux_k)] = sum(wire.sent for wire in wires) - before
    return found


def joined(name, rank, size, folder):
    store = dist.FileStore(str(folder / f"store.{name}"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timeout_of(60))


def several(where=None):
    """The weights of two dictionaries that learn from the same batches."""
    saes = [worker.MAKE["topk"](), worker.MAKE["relu"]()]
    trainer = ms.Trainer(saes, replace(worker.CONFIG, steps=4), progress=False, mesh=where).fit(worker.source())
    declared = [sae.declared() for sae in saes]
    return [
        {name: (p.detach().clone(), declared[i][name].per_feature) for name, p in sae.named_parameters()}
        for i, sae in enumerate(trainer.dictionary(i) for i in range(2))
    ]


def exchanges(where):
    """Log interval: exchanges between all processes in a run; whether this process shows a progress bar; times."""
    found = {}
    for every in (1, worker.CONFIG.steps):
        trainer = ms.Trainer(worker.MAKE["topk"](), replace(worker.CONFIG, log_every=every), progress=False, mesh=where)
        trainer.fit(worker.source())
        found[every] = trainer.learners[0].sae.shard.world.calls
    trainer = ms.Trainer(worker.MAKE["topk"](), worker.CONFIG, progress=True, mesh=where, time_phases=True)
    with trainer._report() as report:
        found["bar"] = not report._bar.disable
    trainer.step(next(iter(worker.source())))
    found["times"] = trainer.learners[0].take_times()
    return found


def hang(rank, folder):
    """One of four processes stops in the middle of a step, alive; the others write down what they are told, and when.

    It stops in an exchange of one axis, so that not all of the others wait for it.
    """
    joined("hang", rank, 4, folder)
    where = mesh.make((2, 2))
    dist.distributed_c10d._set_pg_timeout(timeout_of(HANGS))  # of all processes; those of the axes follow it
    trainer, x = ms.Trainer(worker.MAKE["topk"](), worker.CONFIG, mesh=where), next(iter(worker.source()))
    trainer.step(x)
    pids, shard = trainer._peers.objects(os.getpid()), trainer._peers.shard
    if rank == 3:
        shard.features.call = lambda collective: os.kill(os.getpid(), signal.SIGSTOP)
    began = time.monotonic()
    said = worker.refused(lambda: trainer.step(x))
    written(folder, f"hung.{rank}", (time.monotonic() - began, pids[-1], said))
    if rank == 0:
        for other in (1, 2):
            waited_for(folder / f"hung.{other}")
        os.kill(pids[-1], signal.SIGKILL)
    os._exit(0)


def killed(rank, folder):
    """Rank 1 kills itself while it writes the checkpoint of step 8; rank 0 writes down what it is told."""
    joined("killed", rank, 2, folder)
    whole = checkpoint.sha256

    def sha256(path):
        if rank == 1 and ".ckpt-8.part" in str(path):
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(path)

    checkpoint.sha256 = sha256
    said = worker.refused(lambda: worker.trained("topk", folder / "killed", mesh.make((1, 2))))
    written(folder, "killed.said", (said, checkpoint.saved_steps(folder / "killed")))
    os._exit(0)


def restarted(rank, folder):
    """The same processes, started again as torchrun does it."""
    joined("restarted", rank, 2, folder)
    trainer, _ = worker.trained("topk", folder / "killed", mesh.make((1, 2)))
    written(folder, f"restarted.{rank}", worker.weights(trainer))
    os._exit(0)
