"""``monosem bench``: how fast a training step is on this machine, and how far from what the machine could do."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from monosem.cli import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Measure a full training step (forward, backward, Adam, decoder constraint) and every operation of it. The "
        "floor is the roofline lower bound of this machine: the encoder's product at the rate measured here, the "
        "bytes at the bandwidth measured here. Plain PyTorch takes the same steps in a process of its own, interleaved "
        "with ours. Shut down other work first; the load of the machine is printed with the figures. Other "
        "libraries are measured by `make bench` in a checkout."
    )
    shape = parser.add_argument_group("workload")
    shape.add_argument(
        "--workload",
        choices=("tiny", "small", "laptop", "gpt2", "widest", "million"),
        default="laptop",
        help="a named shape: tiny 256×64×512, small 1,024×128×4,096, laptop 2,048×512×16,384, gpt2 4,096×768×24,576, "
        "widest 8,192×512×131,072, million 2,048×512×1,048,576 (tokens × d_in × d_sae)",
    )
    options.add_kind(shape, "a kind of dictionary (`monosem train --help` lists them)")
    shape.add_argument("--batch-size", type=int, metavar="N", help="tokens per step (default: the workload's)")
    shape.add_argument("--d-in", type=int, metavar="D", help="width (default: the workload's)")
    shape.add_argument("--d-sae", type=int, metavar="F", help="features (default: the workload's)")
    shape.add_argument("--k", type=int, metavar="K", help="active features (default: the workload's)")
    how = parser.add_argument_group("measurement")
    how.add_argument("--only", choices=("step", "operations"), help="one of the two tables (default: both)")
    how.add_argument("--no-dense", action="store_true", help="leave out plain PyTorch")
    how.add_argument("--compiled", action="store_true", help="also torch.compile of the plain step (a minute or more)")
    how.add_argument("--rounds", type=int, default=10, help="rounds; a step's figure is the median over them")
    how.add_argument("--seconds", type=float, default=120.0, help="start no round after this time")
    how.add_argument("--threads", type=int, help="threads to use (default: as PyTorch chooses)")
    how.add_argument(
        "--tune",
        nargs="?",
        const="",
        metavar="DIR",
        help="on a GPU, instead: tune the block sizes of the kernels at this workload's width; those faster than "
        "the rule are used from then on by this installation, or, with DIR, written there and used where MONOSEM_TUNED "
        "names that folder",
    )
    how.add_argument("--json", metavar="FILE", help="also write all measurements as JSON")


def run(args: argparse.Namespace) -> int:
    import torch
    from tqdm.auto import tqdm

    from monosem.bench import operations, show, step_comparison
    from monosem.bench.entrants import dense
    from monosem.bench.rounds import COMPILED, DENSE, MONOSEM, Entrant
    from monosem.bench.workloads import WORKLOADS
    from monosem.data import files

    if args.threads is not None:
        if args.threads < 1:
            raise ValueError(f"--threads: got {args.threads}; wanted at least 1")
        torch.set_num_threads(args.threads)
    if args.rounds < 3:
        raise ValueError(f"--rounds: got {args.rounds}; wanted at least 3")
    given = {"n": args.batch_size, "d": args.d_in, "f": args.d_sae, "k": args.k}
    changes = {name: value for name, value in given.items() if value is not None}
    named = {"name": ""} if changes else {}
    w = WORKLOADS[args.workload].with_(kind=args.kind, **changes, **named)
    if args.tune is not None:
        return _tune(w, args.json, Path(args.tune) if args.tune else None)
    with_dense = not args.no_dense and dense.trains(w.kind, w.settings)
    if not (with_dense or args.no_dense):
        print(f"plain PyTorch is left out: it is written for {' and '.join(dense.KINDS)} with unit decoder rows")
    results = {}
    with tqdm(bar_format="{desc}", leave=False, disable=None) as bar:
        if args.only != "operations":
            entrants: list[Entrant] = [MONOSEM, *([DENSE] if with_dense else []), *([COMPILED] * args.compiled)]
            results["train_step"] = step_comparison.compare(
                w, entrants, rounds=args.rounds, budget=args.seconds, say=bar.set_description_str
            )
        if args.only != "step":
            results["operations"] = operations.compare(w, rounds=args.rounds, say=bar.set_description_str)
    tables = {"train_step": show.step_table, "operations": show.operations_table}
    print(show.heading(next(iter(results.values()))))
    for name, result in results.items():
        print("\n" + show.text(tables[name](result)))
    if args.json:
        files.write_text(args.json, json.dumps(results, indent=1) + "\n")
        print(f"\nwritten to {args.json}")
    return 1 if any(row.get("error") for r in results.values() for row in r["rows"][:1]) else 0


def _tune(w, json_path: str | None, folder: Path | None) -> int:
    import torch
    from tqdm.auto import tqdm

    if not torch.cuda.is_available():
        raise ValueError("--tune: PyTorch finds no GPU here; wanted one. `monosem doctor` has the details")
    if folder is not None:
        if folder.exists() and not folder.is_dir():
            raise ValueError(
                f"--tune: got {str(folder)!r}, a file; wanted a folder, or none for this installation's own"
            )
        folder.mkdir(parents=True, exist_ok=True)  # before the time is spent
    from monosem.bench import gpu_clock, tune
    from monosem.data import files
    from monosem.ops import tune_table

    p = torch.cuda.get_device_properties(0)
    arch = getattr(p, "gcnArchName", "").split(":")[0] if torch.version.hip else f"sm_{p.major}{p.minor}"
    with tqdm(bar_format="{desc}", leave=False, disable=None) as bar:
        tuning = tune.tune(w, gpu_clock.Clock(torch.device("cuda")), p.name, arch, say=bar.set_description_str)
    path = tune_table.write(tuning, p.name, {"torch": torch.__version__}, folder)
    for row in tuning["tried"]:
        outcome = row["error"] if "error" in row else f"{row['ms']:.4f} ms"
        print(f"{row['operation']:18} {row['kernel']:22} {row['size']:6} {row['choice']!s:60} {outcome}")
    print(f"{sum(map(len, tuning['kernels'].values()))} entries faster than the rule; table: {path}")
    if json_path:
        files.write_text(json_path, json.dumps(tuning, indent=1) + "\n")
    if "stopped" in tuning:
        print(f"stopped before the end: {tuning['stopped']}", file=sys.stderr)
    return int("stopped" in tuning)
