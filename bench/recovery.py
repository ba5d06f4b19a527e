"""Recovery of known features by training.

1,024 random directions in 256 dimensions, sums of about 8 of them; TopK and ReLU dictionaries of 2,048 features are
trained on the sums. Prints, and writes to ``bench/results/recovery.json``, the mean over the true features of the
greatest cosine with a decoder row, as it grows. Run: ``python bench/recovery.py [--quick]``.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import time
from dataclasses import asdict
from pathlib import Path

import torch

import monosem as ms
from monosem.data import files
from monosem.data.synthetic import SyntheticDictionary, mean_max_cosine

D, TRUE, ACTIVE, WIDTH, BATCH = 256, 1024, 8, 2048, 512


def recover(sae, lr: float, steps: int) -> dict:
    """Train on activations seen once each; recovery at ten points of the run."""
    source = SyntheticDictionary(D, TRUE, ACTIVE, batch_size=BATCH)
    plan = ms.ResampleConfig.for_run(steps, BATCH, WIDTH) if sae.cfg.resampled else None
    config = ms.TrainConfig(
        lr=lr, batch_size=BATCH, steps=steps, log_every=steps // 10, dead_after=50_000, resample=plan
    )
    curve = [{"step": 0, "mean_max_cosine": mean_max_cosine(sae.W_dec, source.features)}]

    class Follow:
        def start(self, step: int) -> None:
            pass

        def log(self, step: int, metrics: dict) -> None:
            cosine = mean_max_cosine(sae.W_dec, source.features)
            row = {"step": step, "mean_max_cosine": cosine} | {name: metrics[name] for name in ("loss", "l0", "dead")}
            curve.append({name: round(value, 5) for name, value in row.items()})
            print(sae.cfg.kind, curve[-1], flush=True)

        def close(self) -> None:
            pass

    began = time.perf_counter()
    ms.Trainer(sae, config, loggers=[Follow()], progress=False).fit(source)
    return {
        "autoencoder": {"kind": sae.cfg.kind, **asdict(sae.cfg)},
        "config": config.to_json(),
        "mean_max_cosine": curve[-1]["mean_max_cosine"],
        "seconds": round(time.perf_counter() - began, 1),
        "curve": curve,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a quarter of the steps, and nothing is written")
    quick = parser.parse_args().quick
    share = 4 if quick else 1
    runs = [
        recover(ms.TopKSAE(D, WIDTH, k=ACTIVE, seed=1), 5e-3, 800 // share),
        recover(ms.ReLUSAE(D, WIDTH, l1_coefficient=3e-3, seed=1), 5e-3, 3000 // share),
    ]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    result = {
        "what": "mean over the true features of the greatest cosine with a decoder row",
        "true_features": {"d_in": D, "n_features": TRUE, "active": ACTIVE, "batch_size": BATCH},
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": commit.stdout.strip(),
        "runs": runs,
    }
    for run in runs:
        print(f"{run['autoencoder']['kind']}: {run['mean_max_cosine']:.4f} in {run['seconds']} s")
    if not quick:
        files.write_text(Path(__file__).parent / "results" / "recovery.json", json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
