"""monosem's own language models: behind hook names, and in a folder of ``monosem lm train``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from monosem.data import files, kinds, sealed
from monosem.data.adapter import Model
from monosem.data.language_model import LMConfig, Transformer
from monosem.data.tokenizer import BOS_ID, load_tokenizer, plain_text
from monosem.data.unicode import check_texts
from monosem.data.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"


class NativeModel(Model):
    """monosem's own :class:`Transformer` with its tokenizer."""

    def __init__(self, module: Transformer, tokenizer: "Tokenizer", name: str = "native") -> None:
        super().__init__()
        if tokenizer.get_vocab_size() > module.cfg.d_vocab:
            raise ValueError(
                f"tokenizer: it has {tokenizer.get_vocab_size()} entries, the model d_vocab={module.cfg.d_vocab}; "
                "wanted the tokenizer that this model was trained with"
            )
        self.module = module.eval()
        self.tokenizer = plain_text(tokenizer)
        self.name, self.n_ctx, self.d_vocab = name, module.cfg.n_ctx, module.cfg.d_vocab
        self.hook_names = module.hook_names

    @property
    def bos_id(self) -> int:
        return BOS_ID

    @property
    def device(self) -> torch.device:
        return self.module.W_U.device

    def to(self, device: torch.device | str) -> NativeModel:
        self.module.to(device)
        return self

    def _forward(self, tokens: Tensor, hooks: dict[str, Callable[[Tensor], Tensor | None]]) -> None:
        self.module.trunk(tokens, hooks)

    def _unembed(self, hidden: Tensor) -> Tensor:
        return torch.nn.functional.linear(hidden, self.module.W_U.T, self.module.b_U)

    def _final_path(self) -> tuple[Tensor | None, bool, Tensor]:
        return self.module.ln_final.weight, True, self.module.W_U

    def _mlp_out(self, layer: int) -> Tensor:
        return self.module.layers[layer].mlp_out.weight.T

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [e.ids for e in self.tokenizer.encode_batch_fast(check_texts(texts))]

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=False)

    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(self.tokenizer.id_to_token, self.tokenizer.get_vocab_size(), self.tokenizer)


def load_folder(folder: Path, name: str) -> NativeModel:
    """A model written by :func:`save_folder`; the tokenizer may also stand one folder up, shared by several models."""
    for needed in (WEIGHTS, CONFIG):
        if not (folder / needed).is_file():
            unfinished = any(folder.glob("ckpt-*"))
            raise FileNotFoundError(
                f"model: {str(folder)!r} holds no {needed}; wanted a folder written by `monosem lm train`. "
                + (
                    "Its training is not finished: run `monosem lm train` again to resume it."
                    if unfinished
                    else kinds.describe(folder)
                )
            )
    record, digests = sealed.read(folder / CONFIG, "model", "the configuration of a model, by `monosem lm train`")
    try:
        cfg = LMConfig(**record)
        sizes = {k: v for k, v in asdict(cfg).items() if k != "ln_eps"}
        if wrong := [f"{k} is {v!r:.50}" for k, v in sizes.items() if type(v) is not int or not 0 < v < 1 << 31]:
            raise ValueError(", ".join(wrong))
        if not isinstance(cfg.ln_eps, (int, float)):
            raise ValueError(f"ln_eps is {cfg.ln_eps!r:.50}")
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"model: {str(folder / CONFIG)!r} is not the configuration of a model ({error})") from None
    advice = "restore it, or train the model again"
    sealed.check(folder / WEIGHTS, digests, "model", advice)
    weights = sealed.read_tensors(folder / WEIGHTS, "model", advice)
    if cfg.n_layers > len(weights):
        raise ValueError(
            f"model: {str(folder / CONFIG)!r} has n_layers {cfg.n_layers}, {WEIGHTS} beside it {len(weights)} tensors; "
            "wanted those of one model"
        )
    with torch.device("meta"):  # shapes only: memory is taken once the file is known to fill it
        module = Transformer(cfg)
    expected = {k: tuple(v.shape) for k, v in module.state_dict().items()}
    got = {k: tuple(v.shape) for k, v in weights.items()}
    if expected != got:
        different = sorted(k for k in expected.keys() | got.keys() if expected.get(k) != got.get(k))
        raise ValueError(
            f"model: {str(folder / WEIGHTS)!r} and {CONFIG} beside it do not belong together: "
            + ", ".join(f"{k} is {got.get(k)}, wanted {expected.get(k)}" for k in different[:3])
        )
    for key, value in weights.items():
        if not bool(value.isfinite().all()):
            raise ValueError(f"model: {str(folder / WEIGHTS)!r}, {key}: holds NaN or Inf; {advice}")
    module = Transformer(cfg)
    module.load_state_dict({k: v.float() for k, v in weights.items()})
    near = folder / TOKENIZER
    tokenizer = near if near.is_file() else folder.parent / TOKENIZER
    if tokenizer.is_file():
        sealed.check(tokenizer, digests, "model", advice)
    return NativeModel(module, load_tokenizer(tokenizer), name)


def save_folder(folder: str | Path, module: Transformer, tokenizer: "Tokenizer | None" = None) -> None:
    """Write ``model.safetensors`` (bf16), ``config.json`` and, when given, ``tokenizer.json``, each whole."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.to(torch.bfloat16) for k, v in module.state_dict().items()}
    beside = {WEIGHTS: files.tensor_writer(weights)}
    if tokenizer is not None:
        text = tokenizer.to_str()
        beside[TOKENIZER] = lambda part: part.write_text(text, encoding="utf-8")
    sealed.write(folder / CONFIG, asdict(module.cfg), beside, indent=2)
