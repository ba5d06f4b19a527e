"""A million JumpReLU features at inference: peak memory over the weights, and time.

    python bench/million_jumprelu.py --out bench/results/million_jumprelu.json

For each width: a planted dictionary (random unit rows, inputs that are sums of 70 of them, θ at which 70 features are
active on average) is written to disk. A process of its own loads it with ``ms.load``, encodes and decodes 256 tokens,
and reports the peak of its resident memory, and what it was when PyTorch and monosem were imported. So does another
one after ``prepare()``. A third compares the code with the dense formula, in blocks of features. Widths for which this
machine has no memory are listed as left out.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import stages
import torch

import monosem as ms
from monosem.ops.memory import available_memory

WIDTHS = (64, 256, 768, 1_152, 2_304)
L0, ROUNDS, SAMPLE, BLOCK = 70, 3, 32, 1 << 16
OPTIONS = ("d_sae", "tokens", "d_in")


def peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def vector(sae: ms.SAE, name: str) -> torch.Tensor:
    return sae.state_dict()[name]


def inputs(sae: ms.JumpReLUSAE, tokens: int) -> torch.Tensor:
    """Sums of ``L0`` rows of the decoder each: [tokens, d_in]."""
    g = torch.Generator().manual_seed(1)
    chosen = torch.randint(sae.cfg.d_sae, (tokens, L0), generator=g)
    weights = 0.5 + torch.rand(tokens, L0, generator=g)
    return torch.nn.functional.embedding_bag(chosen, sae.W_dec.detach(), per_sample_weights=weights, mode="sum")


@torch.no_grad()
def write(args: argparse.Namespace) -> dict[str, Any]:
    """The dictionary on disk, and its inputs."""
    sae = ms.JumpReLUSAE(args.d_in, args.d_sae, initial_threshold=1.0, l0_coefficient=1.0, bandwidth=0.1, seed=0)
    x = inputs(sae, args.tokens)
    largest = torch.empty(0)
    for rows in sae.W_enc_rows.split(BLOCK):
        largest = torch.cat([largest, (x[:SAMPLE] @ rows.T).flatten()])
        largest = largest.topk(min(len(largest), SAMPLE * L0 + 1)).values
    vector(sae, "threshold").fill_(float(largest[-2:].mean()))
    ms.save(sae, args.folder)
    torch.save(x, args.folder / "x.pt")
    return {"weights_bytes": sum(p.numel() * p.element_size() for p in sae.parameters())}


def timed(call: Callable[[], object]) -> dict[str, float]:
    """Median milliseconds of a call after a first one: by the clock, and processor time of all threads."""
    call()
    clock, processor = [], []
    for _ in range(ROUNDS):
        began, used = time.perf_counter(), time.process_time()
        call()
        clock.append(1e3 * (time.perf_counter() - began))
        processor.append(1e3 * (time.process_time() - used))
    return {"ms": round(statistics.median(clock), 1), "cpu_ms": round(statistics.median(processor), 1)}


@torch.no_grad()
def measure(args: argparse.Namespace, prepared: bool) -> dict[str, Any]:
    x = torch.load(args.folder / "x.pt")
    before = peak_bytes()
    began = time.perf_counter()
    sae = ms.load(args.folder)
    if prepared:
        sae.prepare()
    seconds, loaded = time.perf_counter() - began, peak_bytes()
    code = sae.encode(x)
    times = {"encode": timed(lambda: sae.encode(x)), "decode": timed(lambda: sae.decode(code))}
    return {
        "l0": round(float(code.l0()), 1),
        "load_seconds": round(seconds, 1),
        "times": times,
        "imported_bytes": before,
        "loaded_bytes": loaded,
        "peak_bytes": peak_bytes(),
    }


@torch.no_grad()
def check(args: argparse.Namespace) -> dict[str, Any]:
    """Exits unless ``encode`` gives the dense code of a few tokens, but for entries within rounding of θ."""
    sae, x = ms.load(args.folder), torch.load(args.folder / "x.pt")[:SAMPLE]
    code = sae.encode(x)
    start, worst = 0, 0.0
    dense = torch.zeros(SAMPLE, args.d_sae).index_put((code.row_ids(), code.indices.long()), code.values)
    for rows in sae.W_enc_rows.split(BLOCK):
        block = slice(start, start + len(rows))
        h = (x - sae.b_dec) @ rows.T + sae.b_enc[block]
        theta = vector(sae, "threshold")[block]
        difference = (dense[:, block] - h * (h > theta)).abs()
        worst = max(worst, float(difference[(h - theta).abs() > 1e-4].max()))
        start += len(rows)
    if worst > 1e-4:
        raise SystemExit(f"encode differs from the dense formula by {worst}")
    return {"largest_difference": worst}


def one_width(args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        args.folder = Path(folder)
        row = {"d_in": args.d_in} | {
            name: stages.run(__file__, name, args, OPTIONS) for name in ("write", "plain", "prepared", "check")
        }
    weights = row["write"]["weights_bytes"]
    for name in ("plain", "prepared"):
        found = row[name]
        found["over_weights"] = round((found["peak_bytes"] - found["imported_bytes"]) / weights - 1, 3)
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--widths", type=int, nargs="+", default=WIDTHS, help="those that memory has no room for are left out"
    )
    parser.add_argument("--d-in", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--d-sae", type=int, default=1 << 20)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--scratch", type=Path, help="folder for the dictionaries (default: the system's)")
    parser.add_argument("--only", help="one stage, in this process; prints JSON")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args()
    if args.only:
        stages_ = {
            "write": write,
            "plain": lambda args: measure(args, prepared=False),
            "prepared": lambda args: measure(args, prepared=True),
            "check": check,
        }
        stages.answer(stages_[args.only](args))
        return 0
    result = {"what": "inference of a million JumpReLU features", "d_sae": args.d_sae, "tokens": args.tokens}
    result |= {"rows": [], "left_out": []}
    for width in args.widths:
        needed = 8 * width * args.d_sae
        if 1.5 * needed > available_memory() or needed > shutil.disk_usage(args.scratch or tempfile.gettempdir()).free:
            result["left_out"].append({"d_in": width, "weights_bytes": needed, "available_bytes": available_memory()})
            continue
        args.d_in = width
        result["rows"].append(one_width(args))
        print(result["rows"][-1], flush=True)
    return stages.conclude(result, args.out)


if __name__ == "__main__":
    sys.exit(main())
