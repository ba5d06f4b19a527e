"""Training of the small language model whose activations the dictionaries explain."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from monosem.data.corpus import Corpus
from monosem.data.folder_lock import folder_lock
from monosem.data.language_model import LMConfig, Transformer
from monosem.data.native import save_folder
from monosem.nn.config import JsonDict
from monosem.train import checkpoint
from monosem.train.interrupt import StopRequest
from monosem.train.lm_config import LMTrainConfig
from monosem.train.loggers import JsonlLogger, Logger, Loggers
from monosem.train.slices import Slices

_LOG_EVERY = 50
HEAD_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def learning_rate(cfg: LMTrainConfig, step: int, steps: int) -> float:
    """Linear from 0 to ``lr`` over the warm-up, then half a cosine down to 0 at ``steps``."""
    if step < cfg.warmup_steps:
        return cfg.lr * (step + 1) / cfg.warmup_steps
    done = (step - cfg.warmup_steps) / max(1, steps - cfg.warmup_steps)
    return cfg.lr * 0.5 * (1 + math.cos(math.pi * done))


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, rows: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(rows)


def batch_rows(rows: np.ndarray, cfg: LMTrainConfig, step: int) -> Tensor:
    """The rows of one step: each epoch is a permutation of all rows that depends on the seed and the epoch only."""
    positions = np.arange(step * cfg.batch_contexts, (step + 1) * cfg.batch_contexts)  # in the sequence of all epochs
    chosen = np.empty_like(positions)
    for epoch in np.unique(positions // len(rows)):
        order = _order(cfg.seed, int(epoch), len(rows))
        of_epoch = positions // len(rows) == epoch
        chosen[of_epoch] = order[positions[of_epoch] % len(rows)]
    return torch.from_numpy(rows[chosen].astype(np.int64))


def train_lm(
    text: str | Path,
    out: str | Path,
    cfg: LMTrainConfig = LMTrainConfig(),
    model_cfg: LMConfig = LMConfig(),
    *,
    tokenizer: str | Path | None = None,
    cache: str | Path | None = None,
    resume_from: int | None = None,
    progress: bool = True,
    loggers: Sequence[Logger] | None = None,
) -> Transformer:
    """Train a language model on JSON-lines text into a folder; a second call continues where the first was stopped.

    A run that was stopped, by Ctrl-C or a kill, and resumed ends with bitwise the weights of one that never stopped:
    the rows of a step depend on the seed and the step alone, and the checkpoint holds everything else.

    Args:
        text: JSON lines, ``{"source", "text"}``; plain, ``.gz`` or ``.xz``.
        out: folder for ``model.safetensors``, ``config.json``, ``tokenizer.json``, ``metrics.jsonl`` and checkpoints.
        tokenizer: an existing tokenizer.json; trained on ``text`` when absent.
        cache: folder of the tokenized text, to be shared by runs on the same text (default: ``out``).
        resume_from: the step of an earlier checkpoint (default: the last).
        loggers: see ``train/loggers.py``; None for JSON lines in ``out``.

    Raises:
        ValueError: too little text, a checkpoint of another configuration or a damaged one, a loss that is not finite.
        RuntimeError: another run writes to ``out`` or is preparing ``cache``.
        KeyboardInterrupt: Ctrl-C, after the checkpoint is written and the way to resume is printed.
    """
    out, cache = Path(out), Path(cache or out)
    with folder_lock(out), StopRequest() as stop:
        with folder_lock(cache) if cache.resolve() != out.resolve() else nullcontext():
            corpus = Corpus(text, cache, model_cfg, cfg.holdout, Path(tokenizer) if tokenizer else None)
        run = _Run(out, cfg, model_cfg, corpus)
        checkpoint.sweep(out)
        saved = checkpoint.saved_steps(out)
        if resume_from is not None or saved:
            run.restore(checkpoint.load(out, saved[-1] if resume_from is None else resume_from))
        run.train(stop, progress, Loggers([JsonlLogger(out / "metrics.jsonl")] if loggers is None else loggers))
        if run.step < run.steps:
            stop.raise_if_asked(f"stopped after step {run.step} of {run.steps}, saved; the same command resumes")
        save_folder(out, run.model, corpus.tokenizer)
    return run.model


class _Run:
    """The state of a training run; a checkpoint holds all of it."""

    def __init__(self, out: Path, cfg: LMTrainConfig, model_cfg: LMConfig, corpus: Corpus) -> None:
        self.out, self.cfg, self.corpus = out, cfg, corpus
        self.steps = int(cfg.epochs * len(corpus.rows)) // cfg.batch_contexts
        if not self.steps:
            raise ValueError(
                f"text: it makes {len(corpus.rows)} contexts of {model_cfg.n_ctx} tokens, {cfg.epochs} epochs of which "
                f"are less than one batch; wanted at least batch_contexts={cfg.batch_contexts}. Add text, or lower it."
            )
        self.model = Transformer(model_cfg).init_weights(cfg.seed)
        decay = [p for p in self.model.parameters() if p.ndim > 1]
        rest = [p for p in self.model.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decay, "weight_decay": cfg.weight_decay}, {"params": rest, "weight_decay": 0.0}],
            lr=cfg.lr,
            betas=cfg.betas,
            fused=True,
        )
        self.names = [n for p in (*decay, *rest) for n, q in self.model.named_parameters() if q is p]
        self.identity = json.loads(json.dumps({"train": asdict(cfg), "model": asdict(model_cfg)} | corpus.identity))
        self.step = 0
        self.seconds = 0.0
        self.losses: list[float] = []  # since the last row of metrics

    def train(self, stop: StopRequest, progress: bool, metrics: Loggers) -> None:
        """Step until the end or until asked to stop; either way the last step is saved."""
        cfg, per_step = self.cfg, self.cfg.batch_contexts * self.model.cfg.n_ctx
        total = self.steps * per_step
        bar = tqdm(total=total, initial=self.step * per_step, unit="tok", unit_scale=True, disable=not progress)
        metrics.start(self.step)
        began, saved = time.monotonic() - self.seconds, self.step
        try:
            with bar, Slices(self.model, cfg.batch_contexts, HEAD_DTYPES[cfg.head_dtype]) as slices:
                while self.step < self.steps and stop.signal is None:
                    self._one_step(slices)
                    self.seconds = time.monotonic() - began
                    bar.update(per_step)
                    if self.step % _LOG_EVERY == 0 or self.step == self.steps:
                        mean = float(torch.tensor(self.losses, dtype=torch.float32, device="cpu").mean())
                        self.losses.clear()
                        bar.set_postfix(loss=f"{mean:.3f}")
                        lr = self.optimizer.param_groups[0]["lr"]
                        row = {"tokens": self.step * per_step, "loss": round(mean, 5), "lr": lr}
                        metrics.log(self.step, row | {"seconds": round(self.seconds, 1)})
                    if self.step % cfg.checkpoint_every == 0:
                        self._save()
                        saved = self.step
                if saved != self.step:
                    self._save()
        finally:
            metrics.close()

    def _one_step(self, slices: Slices) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.cfg, self.step, self.steps)
        loss = slices.backward(batch_rows(self.corpus.rows, self.cfg, self.step))
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.cfg.clip)
        if not (math.isfinite(loss) and math.isfinite(norm.item())):  # before any weight has moved
            raise ValueError(
                f"loss: {loss} with a gradient of norm {norm.item()} at step {self.step}; wanted finite "
                "numbers. Training diverged: start again in another folder with a lower lr."
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.append(loss)
        self.step += 1

    def _save(self) -> None:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{self.names[index]}.{k}": v for k, v in state.items()}
        state: JsonDict = {"identity": self.identity, "losses": self.losses, "seconds": self.seconds}
        checkpoint.save(self.out, checkpoint.Checkpoint(self.step, tensors, state))

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Continue from a checkpoint.

        Raises:
            ValueError: it belongs to other training; the message names the differences.
        """
        old = saved.state["identity"]
        was = asdict(LMTrainConfig()) | old["train"]  # settings that are newer than the checkpoint had their default
        flat = {k: v for k, v in (was | old["model"] | old).items() if k not in ("train", "model")}
        own = self.identity["train"] | self.identity["model"] | self.identity
        different = [f"{k} was {v!r}, now {own.get(k)!r}" for k, v in flat.items() if own.get(k) != v]
        if different:
            raise ValueError(
                f"out: {str(self.out)!r} holds checkpoints of other training ({'; '.join(different)}); wanted the same "
                "text and configuration. Resume with those, or choose another folder."
            )
        checkpoint.set_aside_after(self.out, saved.step)
        tensors = saved.tensors
        self.model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        state = self.optimizer.state_dict()
        keys = ("step", "exp_avg", "exp_avg_sq")
        state["state"] = {i: {k: tensors[f"adam.{n}.{k}"] for k in keys} for i, n in enumerate(self.names)}
        self.optimizer.load_state_dict(state)
        self.step, self.losses, self.seconds = saved.step, list(saved.state["losses"]), saved.state["seconds"]
