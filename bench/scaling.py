"""Training over several processes of this machine: time per phase, bytes that the kernel counted, memory.

    python bench/scaling.py --out bench/results/scaling.json --picture docs/scaling.svg

Each process has one thread; of more processes than cores the result says so. Processes are on one machine, and gloo
sends through its loopback, so an exchange is work for the same cores: that is an upper bound of its cost. Each run is
in a network of its own, whose kernel counts every byte that its processes send, headers included (Linux, as root;
elsewhere ``wire_bytes`` is None). Three parts:

* strong and weak scaling of a TopK step, in shards of features and of tokens;
* what DDP sends for the dense module at 131,072 features, and what we do;
* a million features in one process and in two: memory of each, and the loss of both.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import os
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import scaling_svg
import stages
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import monosem as ms
from monosem.distributed.wire import timeout_of
from monosem.ops.shard import WHOLE
from monosem.train.distributed import cost, kinds, mesh

N, D, F, K = 2048, 512, 16_384, 32
WIDE, MILLION = 131_072, 1 << 20
UNTIMED, TIMED = 3, 8
# Name, mesh, features. One process first: the others are compared with it.
RUNS = [
    ("one process", (1, 1), F),
    ("strong, features", (1, 2), F),
    ("strong, tokens", (2, 1), F),
    ("strong, features", (1, 4), F),
    ("weak, features", (1, 2), 2 * F),
    ("weak, features", (1, 4), 4 * F),
]
Figures = dict[str, Any]


def sent_by_kernel() -> int | None:
    """Bytes that all processes of this network have sent over its loopback."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[8])
    return None


def own_network() -> bool:
    """Move this process, and those it starts, to a network of their own that has a loopback alone."""
    newnet, up_and_running, set_flags = 0x40000000, 0x41, 0x8914
    if sys.platform != "linux" or ctypes.CDLL(None).unshare(newnet):
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, set_flags, struct.pack("16sh", b"lo", up_and_running))
    return True


def in_processes(ranks: int, act: Callable[[int, bool], Figures]) -> list[Figures]:
    """What ``act(rank, counts)`` returned in each of so many new processes, which are joined by gloo."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)

        def one(rank: int, counts: bool) -> None:
            store = dist.FileStore(str(folder / "store"), ranks)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=timeout_of(600))
            figures = act(rank, counts)
            peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
            (folder / f"{rank}.json").write_text(json.dumps(figures | {"peak_bytes": int(peak.split()[1]) * 1024}))

        def all_of_them() -> None:
            counts = own_network()
            children = [forked(lambda rank=rank: one(rank, counts)) for rank in range(ranks)]
            if any([os.waitpid(child, 0)[1] for child in children]):
                raise SystemExit(f"a process of {ranks} failed")

        if os.waitpid(forked(all_of_them), 0)[1]:
            raise SystemExit("a measurement failed; its message is above")
        return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]


def forked(act: Callable[[], None]) -> int:
    """The number of a new process that ends after ``act``. PyTorch is imported once, before."""
    if child := os.fork():
        return child
    code = 1
    try:
        act()
        code = 0
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def trainer_of(shape: tuple[int, int], features: int, **options: Any) -> ms.Trainer:
    """A trainer of a dictionary whose weights are the same for any number of processes."""
    config = ms.TrainConfig(lr=1e-3, batch_size=N, steps=1000, **options)
    sizes = ms.TopKSAE.Config(d_in=D, d_sae=features, k=K)
    if shape == (1, 1):
        return ms.Trainer(kinds.build_shard(sizes, 0, WHOLE), config, progress=False, time_phases=True)
    where = mesh.make(shape)
    return ms.Trainer(kinds.new(sizes, where), config, progress=False, time_phases=True, mesh=where)


def batch(tokens: int) -> torch.Tensor:
    return torch.randn(tokens, D, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu")


def measured(
    counts: bool, step: Callable[[], object], steps: int, phases: Callable[[], dict[str, float]] = dict
) -> Figures:
    """The median step: milliseconds, in all and by phase, and bytes; all processes start each together."""
    times: list[tuple[float, dict[str, float]]] = []
    before = sent_by_kernel()
    for _ in range(steps):
        dist.barrier()
        began = time.perf_counter()
        step()
        times.append((1e3 * (time.perf_counter() - began), phases()))
    dist.barrier()
    after = sent_by_kernel()
    wire = (after - before) / steps if counts and before is not None and after is not None else None
    ms, of_phases = sorted(times, key=lambda each: each[0])[len(times) // 2]
    return {"ms": ms, "phases": of_phases, "wire_bytes": wire}


def steps_of(shape: tuple[int, int], features: int) -> Callable[[int, bool], Figures]:
    """A run of training steps on a mesh."""

    def act(rank: int, counts: bool) -> Figures:
        trainer, x = trainer_of(shape, features), batch(N)
        learner = trainer.learners[0]
        for _ in range(UNTIMED):
            trainer.step(x)
        learner.take_times()
        wires = [] if shape == (1, 1) else [getattr(learner.sae.shard, w) for w in ("features", "data", "world")]
        before = sum(wire.sent for wire in set(wires)), sum(wire.calls for wire in set(wires))
        figures = measured(counts, lambda: trainer.step(x), TIMED, learner.take_times)
        after = sum(wire.sent for wire in set(wires)), sum(wire.calls for wire in set(wires))
        sent, calls = ((b - a) / TIMED for a, b in zip(before, after, strict=True))
        return figures | {"sent_bytes": sent, "exchanges": calls}

    return act


class Dense(torch.nn.Module):
    """The dense TopK autoencoder, by its definition."""

    def __init__(self) -> None:
        super().__init__()
        like = {"dtype": torch.float32, "device": "cpu"}
        self.enc = torch.nn.Parameter(torch.zeros(WIDE, D, **like))
        self.dec = torch.nn.Parameter(torch.zeros(WIDE, D, **like))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        top = (x @ self.enc.T).topk(K)
        code = torch.zeros(len(x), WIDE, dtype=x.dtype, device=x.device).scatter(1, top.indices, top.values.relu())
        return (code @ self.dec - x).square().mean()


def dense_ddp(tokens: int) -> Callable[[int, bool], Figures]:
    """Backward passes of DDP, without an optimizer: what it sends depends on the parameters alone."""

    def act(rank: int, counts: bool) -> Figures:
        module = DistributedDataParallel(Dense(), gradient_as_bucket_view=True)
        x = batch(tokens)[rank::2]

        def step() -> None:
            module.zero_grad(set_to_none=False)
            module(x).backward()

        step()  # afterwards its buckets are as they stay
        return measured(counts, step, 2)

    return act


def a_million(shape: tuple[int, int], tokens: int, steps: int) -> Callable[[int, bool], Figures]:
    """Steps of a dictionary of a million features, whose weights are drawn where they are held."""

    def act(rank: int, counts: bool) -> Figures:
        before = Path("/proc/self/statm").read_text().split()[1]
        began = time.perf_counter()
        trainer = trainer_of(shape, MILLION, adam_state="int8")
        made, x, losses = time.perf_counter() - began, batch(tokens), []
        figures = measured(counts, lambda: losses.append(float(trainer.step(x)["loss"])), steps)
        held = sum(t.numel() * t.element_size() for t in trainer.learners[0].state_dict().values())
        return figures | {
            "made_seconds": made,
            "losses": losses,
            "before_bytes": int(before) * os.sysconf("SC_PAGE_SIZE"),
            "state_bytes": held,
        }

    return act


def scaling() -> list[Figures]:
    rows = []
    for name, shape, features in RUNS:
        ranks = in_processes(shape[0] * shape[1], steps_of(shape, features))
        slowest = max(ranks, key=lambda rank: rank["ms"])
        row = {"name": name, "mesh": f"{shape[0]}x{shape[1]}", "processes": len(ranks), "features": features}
        row |= {"oversubscribed": len(ranks) > (os.cpu_count() or 1), "ms": slowest["ms"]}
        row |= {"phases": slowest["phases"]}
        row |= {"sent_bytes": slowest["sent_bytes"], "exchanges": slowest["exchanges"]}
        row |= {"model_bytes": cost.on_mesh(cost.Sizes(N, D, K), *shape)}
        row |= {"wire_bytes": None if slowest["wire_bytes"] is None else slowest["wire_bytes"] / len(ranks)}
        rows.append(row)
        print(row, flush=True)
    return rows


def against_ddp() -> Figures:
    ours = in_processes(2, steps_of((1, 2), WIDE))[0]
    theirs = in_processes(2, dense_ddp(256))[0]
    found = {"features": WIDE, "tokens": N, "tokens_of_ddp": 256}
    found |= {"ours_wire_bytes": ours["wire_bytes"], "ddp_wire_bytes": theirs["wire_bytes"]}
    found |= {"ddp_model_bytes": 2 * cost.dense_gradients(WIDE, cost.Sizes(N, D, K), 2)}
    if ours["wire_bytes"]:
        found["ratio"] = theirs["wire_bytes"] / ours["wire_bytes"]
    print(found, flush=True)
    return found


def million(tokens: int, steps: int) -> Figures:
    found: Figures = {"features": MILLION, "adam_state": "int8", "tokens": tokens, "steps": steps, "rows": []}
    for shape in ((1, 1), (1, 2)):
        ranks = in_processes(shape[1], a_million(shape, tokens, steps))
        row = {"processes": len(ranks), "ms": max(r["ms"] for r in ranks), "losses": ranks[0]["losses"]}
        row |= {name: [r[name] for r in ranks] for name in ("peak_bytes", "before_bytes", "state_bytes")}
        row |= {"made_seconds": max(r["made_seconds"] for r in ranks)}
        found["rows"].append(row)
        print(row, flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("scaling", "ddp", "million"), help="one part")
    parser.add_argument("--out", type=Path, help="JSON file; the parts that are not measured stay as they are in it")
    parser.add_argument("--picture", type=Path, help="SVG file of bytes and time per phase")
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    result: Figures = {"what": "training over several processes of one machine, one thread each"}
    result |= {"shape": {"tokens": N, "d_in": D, "k": K}, "kind": "topk", "load_average_before": os.getloadavg()[0]}
    if args.out and args.out.exists():
        result = json.loads(args.out.read_text()) | result
    if args.only in (None, "scaling"):
        result["scaling"] = scaling()
    if args.only in (None, "ddp"):
        result["ddp"] = against_ddp()
    if args.only in (None, "million"):
        result["million"] = million(256, 3)
    if args.picture and "scaling" in result:
        args.picture.write_text(scaling_svg.picture(result))
    return stages.conclude(result, args.out)


if __name__ == "__main__":
    sys.exit(main())
