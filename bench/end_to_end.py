"""Tokens per second of a full training run, the language model's forward pass included, next to SAELens' runner."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import environments
import numpy as np
import peers
import torch

import monosem as ms
from monosem.bench import machine
from monosem.bench.rounds import Entrant, Failed, Worker

HOOK = "blocks.0.mlp.hook_post"


def measure(
    steps: int = 100,
    rounds: int = 3,
    *,
    n: int = 4096,
    f: int = 4096,
    k: int = 16,
    model: str = "A",
    errors: dict[str, str] | None = None,
    timeout: float = 1800.0,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Alternate the two, ``rounds`` times: same model, tokens, hook, width, K, batch, learning rate, fp32.

    Each keeps its own way of shuffling: both run 16 contexts at a time through the model into a buffer (SAELens: 64
    such batches, half of it replaced at a time; monosem: 1,024 contexts).
    """
    began = time.time()
    about_machine = machine.describe()
    why = (errors or {}).get("sae_lens") or environments.missing("sae_lens")
    entrants = [
        Entrant("monosem train", peers.FOLDER / "monosem_train.py"),
        Entrant(
            "SAELens runner", peers.FOLDER / "sae_lens_train.py", python=environments.python("sae_lens"), missing=why
        ),
    ]
    rows: list[dict[str, Any]] = [
        {"name": e.title, "runs": [], "notes": [], "versions": {}, "error": None} for e in entrants
    ]
    with tempfile.TemporaryDirectory() as folder:
        job = _job(Path(folder), steps, n, f, k, model)
        workers: dict[int, Worker] = {}
        try:
            for number, entrant in enumerate(entrants):
                say(f"starting {entrant.title}")
                try:
                    workers[number] = Worker(entrant, job, Path(folder), number)
                    rows[number] |= workers[number].answer(timeout)
                except (Failed, OSError) as error:
                    rows[number]["error"] = str(error)
                    if number in workers:
                        workers.pop(number).close()
            for round_number in range(rounds):
                for number in list(workers):
                    say(f"run {round_number + 1}/{rounds} of {entrants[number].title}: {steps * n:,} tokens")
                    try:
                        rows[number]["runs"].append(workers[number].ask(timeout, "run"))
                    except Failed as error:
                        rows[number]["error"] = str(error)
                        workers.pop(number).close()
        finally:
            for worker in workers.values():
                worker.close()
    for row in rows:
        rates = [run["tokens"] / run["seconds"] for run in row["runs"]]
        row["tokens_per_second"] = statistics.median(rates) if rates else None
        row["peak_bytes"] = max((run["peak_bytes"] or 0 for run in row["runs"]), default=None)
    ours, theirs = (row["tokens_per_second"] for row in rows)
    return {
        "what": "end_to_end",
        "model": model,
        "hook": HOOK,
        "n": n,
        "f": f,
        "k": k,
        "steps": steps,
        "machine": about_machine,
        "made": time.strftime("%Y-%m-%d %H:%M", time.gmtime(began)),
        "seconds": round(time.time() - began, 1),
        "rows": rows,
        "ratio": ours / theirs if ours and theirs else None,
    }


def _job(folder: Path, steps: int, n: int, f: int, k: int, model: str) -> dict[str, Any]:
    """The tokens of the shipped text, and a folder that holds monosem alone for the other environment to import."""
    lm = ms.load_model(model)
    needed = 2 * steps * n // lm.n_ctx + 2048  # enough tokens for both, buffers included
    rows = np.asarray(ms.pack_rows(ms.sample_documents("train"), lm).tokens)
    rows = rows[np.random.default_rng(0).permutation(len(rows))][:needed]
    np.save(folder / "tokens.npy", rows)
    (folder / "path").mkdir()
    (folder / "path" / "monosem").symlink_to(Path(ms.__file__).parent)
    return {
        "model": model,
        "hook": HOOK,
        "tokens": str(folder / "tokens.npy"),
        "monosem": str(folder / "path"),
        "d": int(lm.width(HOOK)),
        "n": n,
        "f": f,
        "k": k,
        "steps": steps,
        "lr": 3e-4,
        "kind": "topk",
        "threads": torch.get_num_threads(),
    }
