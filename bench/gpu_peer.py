"""One entrant's training steps on a GPU, in a process of its own: ``python gpu_peer.py JOB.json RESULT.json``.

The job is ``Workload.job()`` with ``script`` (an entrant's file), ``precision``, ``variant`` and ``device``. A failure,
memory included, is written as an error and does not affect the others. Steps are timed from launch to the loss that the
entrant returns, which synchronises with the GPU, as training loops do when they log; median of ``steps``.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
import time
import traceback
from importlib import metadata
from pathlib import Path
from typing import Any

import torch


def start(job: dict[str, Any], device: torch.device) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Batches [4, N, D] and initial weights, made on the device from a fixed seed: the same for all entrants."""
    g = torch.Generator(device).manual_seed(0)
    n, d, f, k = (job[name] for name in "ndfk")
    w = torch.randn(f, d, generator=g, device=device)
    w.div_(w.norm(dim=-1, keepdim=True))
    batches = torch.empty(4, n, d, device=device)
    for x in batches:
        chosen = torch.randint(f, (n, k), generator=g, device=device)
        weights = torch.rand(n, k, generator=g, device=device)
        x.copy_(torch.nn.functional.embedding_bag(chosen, w, per_sample_weights=weights, mode="sum"))
    bias = 0.0
    if not job["fixed_k"]:  # at which k of them fire on average
        some = batches[0, :256] @ w.T
        bias = -float(some.flatten().kthvalue(some.numel() - len(some) * k).values)
        del some
    weights = {"W_enc": w, "W_dec": w, "b_enc": torch.full((f,), bias, device=device)}
    return batches, weights | {"b_dec": torch.zeros(d, device=device)}


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Steps of the entrant: time, peak memory, loss."""
    device = torch.device(job["device"])
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high" if job["precision"] == "tf32" else "highest")
    batches, weights = start(job, device)
    spec = importlib.util.spec_from_file_location("entrant", job["script"])
    module = importlib.util.module_from_spec(spec)
    sys.modules["entrant"] = module
    spec.loader.exec_module(module)
    entrant = module.build(job, weights)
    del weights
    data = batches.numel() * 4
    cuda = device.type == "cuda"
    for i in range(3):
        entrant.step(batches[i % 4])
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    times: list[float] = []
    loss = None
    deadline = time.perf_counter() + job["seconds"]
    while len(times) < job["steps"] and (len(times) < 3 or time.perf_counter() < deadline):
        begin = time.perf_counter()
        loss = entrant.step(batches[len(times) % 4])
        if cuda:
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - begin))
    names = ["torch", *getattr(entrant, "packages", [])]
    return {
        "ms": statistics.median(times),
        "fastest_ms": min(times),
        "steps": len(times),
        "loss": loss,
        "peak_bytes": torch.cuda.max_memory_allocated() - data if cuda else None,
        "notes": list(getattr(entrant, "notes", [])),
        "versions": {n: metadata.version(n) for n in names},
    }


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    try:
        result = measure(job)
    except BaseException as error:
        traceback.print_exc()
        text = str(error).strip().splitlines()
        result = {"error": f"{type(error).__name__}: {text[0][:300] if text else 'no message'}"}
    Path(sys.argv[2]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
