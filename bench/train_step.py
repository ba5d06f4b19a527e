"""A whole training step (forward, backward, Adam, decoder constraint) beside the peers', in one run, interleaved.

    python bench/train_step.py --workload laptop --out bench/results/train_step.json

The peers are those that can be imported: `pip install --no-deps eai-sparsify==1.3.3` and what it imports adds sparsify.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import machine
import torch
from peers import PEERS
from workloads import WORKLOADS


def measure(workload, rounds: int, names: list[str], try_bf16: bool) -> dict:
    """Median milliseconds of each peer and precision, and the loss after the same steps from the same weights."""
    batches = workload.batches(4)
    steps = {}
    for name in names:
        for bf16 in (False, True) if try_bf16 and name != "monosem" else (False,):
            steps[name + (" bf16" if bf16 else "")] = PEERS[name](workload.d, workload.f, workload.k, bf16)
    times: dict[str, list[float]] = {name: [] for name in steps}
    losses: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):  # the first warms up
        for name, step in steps.items():
            begin = time.perf_counter()
            losses[name].append(step(batches[turn % len(batches)]))
            if turn:
                times[name].append(time.perf_counter() - begin)
        print(f"round {turn}/{rounds}", end="\r", flush=True)
    rows = {
        name: {"ms": 1e3 * statistics.median(t), "fastest_ms": 1e3 * min(t), "loss": losses[name][-1]}
        for name, t in times.items()
    }
    return {"steps": rounds + 1, "rows": rows}


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=WORKLOADS, default="laptop")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    w = WORKLOADS[args.workload]
    dtype = torch.bfloat16 if machine.describe()["backend"]["cpu product"] == "bf16" else torch.float32
    speed = machine.bandwidth()
    product = machine.product_seconds(w.n, w.d, w.f, dtype)
    floor = 1e3 * (product + (w.gather_bytes + w.adam_bytes) / speed)
    result = {"workload": {"name": args.workload, **vars(w)}, "machine": machine.describe()}
    result["floor"] = {"ms": floor, "product_ms": 1e3 * product, "bytes_per_second": speed, "product_dtype": str(dtype)}
    # Autocast to bf16 is a peer's best only where the processor multiplies it; elsewhere it takes ten times as long.
    result |= measure(w, args.rounds, args.peers, try_bf16=dtype == torch.bfloat16)
    ours = result["rows"]["monosem"]["ms"]
    print(f"{args.workload}: N={w.n} D={w.d} F={w.f} K={w.k}, floor {floor:.0f} ms")
    for name, row in result["rows"].items():
        print(f"{name:15} {row['ms']:8.0f} ms  {row['ms'] / ours:5.2f} × monosem  loss {row['loss']:.6f}")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
