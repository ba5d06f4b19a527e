"""Cost in loss of the low-memory options of Adam.

Model A's MLP activations of the shipped text (512 wide), a TopK and a ReLU dictionary; the same weights, batches and
learning rate, the moments of Adam in fp32, bf16 and int8, and rows left alone in batches without a gradient for them.
Prints, and writes to ``bench/results/low_memory.json``, the error on held-out text after the last step, and the bytes
of the moments of both matrices. Run: ``python bench/low_memory.py``.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

import monosem as ms
from monosem.bench import machine
from monosem.data import files
from monosem.nn import registry

FEATURES, K, L1, BATCH, LR, SEEDS = 8192, 16, 3e-3, 256, 1e-3, (0, 1)
OPTIONS = {
    "fp32": {},
    "bf16": {"adam_state": "bf16"},
    "int8": {"adam_state": "int8"},
    "fp32, lazy": {"lazy_rows": True},
    "int8, lazy": {"adam_state": "int8", "lazy_rows": True},
}


def activations(split: str, tokens: int) -> Tensor:
    """The first activations of the split, of documents in a fixed order: [tokens, 512]."""
    model = ms.load_model("A")
    rows = ms.pack_rows(ms.sample_documents(split), model)
    rows = rows.tokens[torch.randperm(len(rows.tokens), generator=torch.Generator().manual_seed(0))]
    parts = [
        model.activations(part, "blocks.0.mlp.hook_post").flatten(0, 1) for part in rows[: tokens // 256].split(64)
    ]
    return torch.cat(parts)[:tokens]


def trained(kind: str, seed: int, train: Tensor, held_out: Tensor, steps: int, options: dict) -> dict:
    """Train and evaluate one dictionary."""
    sae = registry.build(registry.configure(kind, 512, FEATURES, k=K, l1_coefficient=L1), seed)
    config = ms.TrainConfig(lr=LR, batch_size=BATCH, steps=steps, dead_after=100_000, seed=seed, **options)
    trainer = ms.Trainer(sae, config, progress=False)
    began = time.perf_counter()
    trainer.fit(train)
    seconds = time.perf_counter() - began
    with torch.no_grad():
        parts = [sae.loss(x) for x in held_out.split(2048)]
        mean = lambda name: sum(float(getattr(p, name)) for p in parts) / len(parts)
        silent = ~torch.stack([p.code.fired() for p in parts]).any(0)
        l0 = sum(float(p.code.l0()) for p in parts) / len(parts)
    fast = trainer.learners[0].fast
    state = [m[name] for m in (fast.m, fast.v) for name in ("W_enc_rows", "W_dec")] + list(fast.scales.values())
    variance = float(held_out.var(0, correction=0).mean())
    return {
        "loss": mean("loss"),
        "mse": mean("mse"),
        "explained": 1 - mean("mse") / variance,
        "l0": l0,
        "silent": float(silent.float().mean()),
        "seconds": round(seconds, 1),
        "moments_bytes_a_weight": sum(t.numel() * t.element_size() for t in state) / (2 * 512 * FEATURES),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--kinds", default="topk,relu")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "low_memory.json")
    args = parser.parse_args()
    train, held_out = activations("train", args.steps * BATCH), activations("held_out", 16_384)
    result = {
        "what": "held-out error after training with less memory for Adam",
        "shape": {"n": BATCH, "d": 512, "f": FEATURES, "k": K, "l1": L1, "lr": LR, "steps": args.steps},
        "config": asdict(ms.TrainConfig(lr=LR, batch_size=BATCH, steps=args.steps)),
        "machine": machine.describe(),
        "threads": torch.get_num_threads(),
        "commit": machine.commit(),
        "rows": [],
    }
    for kind in args.kinds.split(","):
        for seed in args.seeds:
            for name, options in OPTIONS.items():
                row = trained(kind, seed, train, held_out, args.steps, options)
                result["rows"].append({"kind": kind, "seed": seed, "options": name} | row)
                print(result["rows"][-1], flush=True)
                files.write_text(args.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
