"""Train the small language model whose activations the dictionaries explain."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from tqdm.auto import tqdm

from monosem.data import files
from monosem.data.language_model import LanguageModel, LMConfig, next_token_loss
from monosem.data.text import Document, read_jsonl, split_holdout
from monosem.data.tokenizer import encode_documents, load_tokenizer, pack_contexts, train_tokenizer


@dataclass(frozen=True)
class LMTrainConfig:
    """How the language model is trained: AdamW, linear warm-up, cosine decay to zero at the last step."""

    seed: int = 0
    epochs: float = 1.0
    batch_contexts: int = 32
    lr: float = 3e-3
    warmup_steps: int = 200
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    holdout: float = 0.02
    checkpoint_every: int = 250


class Corpus:
    """Tokenized text of a run folder: made once, then read from disk by every later run.

    ``tokens.npy`` holds training rows [rows, n_ctx + 1] (uint16); ``held_out.jsonl`` stays as text, by source.
    """

    def __init__(self, text: str | Path, folder: Path, model: LMConfig, share: float, tokenizer: Path | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        documents = list(read_jsonl(text))
        if not documents:
            raise ValueError(f"text: {str(text)!r} holds no document; wanted at least one JSON line with a 'text'")
        train, self.held_out = split_holdout(documents, share)
        path = tokenizer or folder / "tokenizer.json"
        if not path.exists():
            made = train_tokenizer((d.text for d in train), model.d_vocab)
            files.write_text(path, made.to_str())
        self.tokenizer = load_tokenizer(path)
        cache = folder / "tokens.npy"
        if not cache.exists():
            rows = pack_contexts(encode_documents(self.tokenizer, train), model.n_ctx)
            files.write_array(cache, rows.astype(np.uint16))
        self.rows = np.load(cache, mmap_mode="r")


def learning_rate(cfg: LMTrainConfig, step: int, steps: int) -> float:
    """Linear from 0 to ``lr`` over the warm-up, then half a cosine down to 0 at ``steps``."""
    if step < cfg.warmup_steps:
        return cfg.lr * (step + 1) / cfg.warmup_steps
    done = (step - cfg.warmup_steps) / max(1, steps - cfg.warmup_steps)
    return cfg.lr * 0.5 * (1 + math.cos(math.pi * done))


def batch_rows(rows: np.ndarray, cfg: LMTrainConfig, step: int) -> torch.Tensor:
    """The rows of one step: each epoch is a permutation of all rows that depends on the seed and the epoch only."""
    wanted = np.arange(step * cfg.batch_contexts, (step + 1) * cfg.batch_contexts)
    chosen = np.empty_like(wanted)
    for epoch in np.unique(wanted // len(rows)):
        order = np.random.default_rng([cfg.seed, int(epoch)]).permutation(len(rows))
        here = wanted // len(rows) == epoch
        chosen[here] = order[wanted[here] % len(rows)]
    return torch.from_numpy(rows[chosen].astype(np.int64))


def train_lm(
    text: str | Path,
    out: str | Path,
    cfg: LMTrainConfig = LMTrainConfig(),
    model_cfg: LMConfig = LMConfig(),
    *,
    tokenizer: str | Path | None = None,
    cache: str | Path | None = None,
    progress: bool = True,
) -> LanguageModel:
    """Train a language model on JSON-lines text into a folder; a second call resumes where the first was stopped.

    Args:
        text: JSON lines, ``{"source", "text"}``.
        out: folder for ``model.safetensors``, ``config.json``, ``metrics.jsonl`` and the checkpoint.
        tokenizer: an existing tokenizer.json; trained on ``text`` when absent.
        cache: folder of the tokenized text, to be shared by runs on the same text (default: ``out``).
    """
    out = Path(out)
    corpus = Corpus(text, Path(cache or out), model_cfg, cfg.holdout, Path(tokenizer) if tokenizer else None)
    steps = int(cfg.epochs * len(corpus.rows)) // cfg.batch_contexts
    model = LanguageModel(model_cfg).init_weights(cfg.seed)
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": cfg.weight_decay}, {"params": rest, "weight_decay": 0.0}],
        lr=cfg.lr, betas=cfg.betas, fused=True,
    )  # fmt: skip
    names = [n for p in (*decay, *rest) for n, q in model.named_parameters() if q is p]
    checkpoint = out / "checkpoint.safetensors"
    step = _restore(checkpoint, model, optimizer, names, cfg) if checkpoint.exists() else 0
    out.mkdir(parents=True, exist_ok=True)
    per_step = cfg.batch_contexts * model_cfg.n_ctx
    bar = tqdm(total=steps * per_step, initial=step * per_step, unit="tok", unit_scale=True, disable=not progress)
    started, losses = time.monotonic(), []
    with (out / "metrics.jsonl").open("a") as log, bar:
        while step < steps:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(cfg, step, steps)
            loss = next_token_loss(model, batch_rows(corpus.rows, cfg, step))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())
            step += 1
            bar.update(per_step)
            if step % 50 == 0 or step == steps:
                mean = float(torch.stack(losses).mean())
                losses.clear()
                bar.set_postfix(loss=f"{mean:.3f}")
                row = {"step": step, "tokens": step * per_step, "loss": round(mean, 5),
                       "lr": optimizer.param_groups[0]["lr"], "seconds": round(time.monotonic() - started, 1)}  # fmt: skip
                log.write(json.dumps(row) + "\n")
                log.flush()
            if step % cfg.checkpoint_every == 0 or step == steps:
                _save(checkpoint, model, optimizer, names, step, cfg)
    files.write_tensors(out / "model.safetensors", {k: v.to(torch.bfloat16) for k, v in model.state_dict().items()})
    files.write_text(out / "config.json", json.dumps(asdict(model_cfg), indent=2) + "\n")
    return model


def _save(path: Path, model: LanguageModel, optimizer, names: list[str], step: int, cfg: LMTrainConfig) -> None:
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{names[index]}.{k}": v for k, v in state.items()}
    files.write_tensors(path, tensors, {"step": str(step), "config": json.dumps(asdict(cfg))})


def _restore(path: Path, model: LanguageModel, optimizer, names: list[str], cfg: LMTrainConfig) -> int:
    metadata = files.read_metadata(path)
    if json.loads(metadata["config"]) != json.loads(json.dumps(asdict(cfg))):
        raise ValueError(
            f"out: {str(path)!r} was written with {metadata['config']}, this run has {json.dumps(asdict(cfg))}; "
            "wanted the same configuration. Resume with it, or choose another folder."
        )
    tensors = load_file(path)
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    state = optimizer.state_dict()
    keys = ("step", "exp_avg", "exp_avg_sq")
    state["state"] = {i: {k: tensors[f"adam.{n}.{k}"] for k in keys} for i, n in enumerate(names)}
    optimizer.load_state_dict(state)
    return int(metadata["step"])


@torch.no_grad()
def held_out_loss(model: LanguageModel, tokenizer, documents: list[Document]) -> dict[str, dict[str, float]]:
    """Nats per token and bits per byte of each source, and of all documents together (key ``"all"``).

    Every document is read in windows of ``n_ctx`` tokens behind a BOS; bits count all its bytes, BOS is not scored.
    """
    sums: dict[str, np.ndarray] = {}
    n_ctx = model.cfg.n_ctx
    for document, tokens in zip(documents, encode_documents(tokenizer, documents), strict=True):
        nats = 0.0
        for start in range(1, len(tokens), n_ctx - 1):
            window = torch.tensor(np.concatenate([tokens[:1], tokens[start : start + n_ctx - 1]]), dtype=torch.long)
            logp = model(window[None, :-1])[0].log_softmax(-1)
            nats -= float(logp.gather(1, window[1:, None]).sum())
        row = np.array([nats, len(tokens) - 1, len(document.text.encode("utf-8"))])
        for key in (document.source, "all"):
            sums[key] = sums.get(key, 0) + row
    return {
        source: {"nats_per_token": n / t, "bits_per_byte": n / b / math.log(2), "tokens": int(t), "bytes": int(b)}
        for source, (n, t, b) in sorted(sums.items()) if t
    }  # fmt: skip
