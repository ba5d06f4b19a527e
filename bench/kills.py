"""``kill -9`` of a process of a mesh at random times: torchrun starts all of them again, and nothing is lost.

    python bench/kills.py --out bench/results/kills.json

The same ``monosem train`` in two processes under ``torchrun --max-restarts``, once undisturbed, then once for each
kill: a seed draws the rank and the moment, from the start of the processes to the end of the undisturbed run. Every
fourth kill waits from its moment on until a checkpoint is being written. Weights of all runs are compared bit for bit.
Nothing here is timed for its own sake, so other work on the machine does no harm.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import stages

import monosem as ms
from monosem.train import checkpoint

RANKS, STEPS, EVERY = 2, 240, 12
TRAINING = f"--d-sae 1024 --kind topk --k 16 --batch-size 256 --steps {STEPS} --checkpoint-every {EVERY} --quiet"


def activations(folder: Path) -> None:
    """A store of the shipped model's MLP activations on the shipped text: 16 contexts, read again and again."""
    model = ms.load_model("A")
    rows = ms.pack_rows(ms.sample_documents("train")[:40], model).tokens[:16]
    ms.harvest(model, "blocks.0.mlp.hook_post", rows, folder, progress=False)


def start(acts: Path, run: Path, said: Path) -> subprocess.Popen[bytes]:
    command = f"-m torch.distributed.run --standalone --nproc-per-node {RANKS} --max-restarts 3 -m monosem train"
    command = [*command.split(), *TRAINING.split(), "--activations", str(acts), "--out", str(run)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    with said.open("wb") as out:
        return subprocess.Popen([sys.executable, *command], env=environment, stdout=out, stderr=out)


def processes(torchrun: int) -> dict[int, int]:
    """The process of each rank that torchrun has started."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == torchrun:
                variables = (entry / "environ").read_bytes().split(b"\0")
                found |= {int(v[5:]): int(entry.name) for v in variables if v.startswith(b"RANK=")}
        except OSError:  # it has ended meanwhile
            continue
    return found


def started(torchrun: subprocess.Popen[bytes]) -> dict[int, int]:
    while torchrun.poll() is None:
        if len(found := processes(torchrun.pid)) == RANKS:
            return found
        time.sleep(0.01)
    raise SystemExit("torchrun ended before its processes started")


def weights(run: Path) -> str:
    return hashlib.sha256((run / "sae.safetensors").read_bytes()).hexdigest()


def undisturbed(folder: Path) -> tuple[str, float]:
    """Its weights, and the seconds from the start of its processes to their end."""
    torchrun = start(folder / "acts", folder / "undisturbed", folder / "said")
    started(torchrun)
    began = time.monotonic()
    if torchrun.wait():
        raise SystemExit((folder / "said").read_text())
    return weights(folder / "undisturbed"), time.monotonic() - began


def kill(folder: Path, seed: int, seconds: float, expected: str) -> dict[str, Any]:
    """One run with one kill; its moment is drawn anew, earlier, where the run was over before."""
    drawn, run, said = random.Random(seed), folder / f"run-{seed}", folder / f"said-{seed}"
    rank, writing = drawn.randrange(RANKS), seed % 4 == 3
    while True:
        at = drawn.uniform(0, seconds)
        shutil.rmtree(run, ignore_errors=True)
        torchrun = start(folder / "acts", run, said)
        pids, until = started(torchrun), time.monotonic() + at
        part = lambda: bool(list(run.glob(".ckpt-*.part")))
        while time.monotonic() < until or (writing and torchrun.poll() is None and not part()):
            time.sleep(0.001)
        row = {"seed": seed, "rank": rank, "after_seconds": round(at, 2), "writing": part()}
        row["last_checkpoint"] = (checkpoint.saved_steps(run) or [None])[-1]
        try:
            os.kill(pids[rank], signal.SIGKILL)
        except ProcessLookupError:
            torchrun.wait()
            seconds *= 0.8
            continue
        killed = time.monotonic()
        while torchrun.poll() is None and set(processes(torchrun.pid).values()) & set(pids.values()):
            time.sleep(0.02)
        row["seconds_until_all_had_ended"] = round(time.monotonic() - killed, 2)
        row["exit_code"] = torchrun.wait()
        words = said.read_text(errors="replace")
        row["named"] = bool(re.search(rf"rank {rank} \(process {pids[rank]} on .*\) ended or did not answer", words))
        row["same_bits"] = row["exit_code"] == 0 and weights(run) == expected
        if not row["same_bits"]:
            print(words[-4000:], file=sys.stderr)
        return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        activations(folder / "acts")
        expected, seconds = undisturbed(folder)
        rows = []
        for seed in range(args.kills):
            rows.append(kill(folder, seed, seconds, expected))
            shutil.rmtree(folder / f"run-{seed}")
            print(rows[-1], flush=True)
    result = {
        "what": "kill -9 of one process of two at random times, under torchrun --max-restarts 3",
        "training": f"{TRAINING}; {RANKS} processes, features sharded, one thread each",
        "undisturbed_seconds": round(seconds, 1),
        "kills": len(rows),
        "same_bits": sum(row["same_bits"] for row in rows),
        "while_a_checkpoint_was_written": sum(row["writing"] for row in rows),
        "rows": rows,
    }
    stages.conclude(result, args.out)
    return int(result["same_bits"] < len(rows))


if __name__ == "__main__":
    sys.exit(main())
