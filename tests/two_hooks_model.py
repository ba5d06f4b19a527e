"""A language model of one layer whose every figure can be computed by hand: an activation, and one made of it."""

import torch
from torch import Tensor

from monosem.data.adapter import BEFORE_UNEMBED, Model
from monosem.data.vocabulary import Vocabulary

IN, OUT = "blocks.0.hook_resid_pre", "blocks.0.hook_mlp_out"
WORDS = ["<|bos|>", *(f" w{i}" for i in range(1, 14))]


class TwoHooksModel(Model):
    """x = E[token] at IN, y = tanh(x·M) at OUT, logits = (x + y·P)·U."""

    n_ctx, d_vocab = 12, len(WORDS)
    hook_names = [IN, OUT, BEFORE_UNEMBED]
    device, bos_id = torch.device("cpu"), 0

    def __init__(self, seed: int = 3, name: str = "two", d: int = 6, d_out: int = 6) -> None:
        super().__init__()
        self.name = name
        generator = torch.Generator().manual_seed(seed)
        self.E = torch.randn(self.d_vocab, d, generator=generator)
        self.M = torch.randn(d, d_out, generator=generator)
        self.P = torch.randn(d_out, d, generator=generator)
        self.U = torch.randn(d, self.d_vocab, generator=generator)

    def _forward(self, tokens: Tensor, hooks: dict) -> None:
        def at(name: str, value: Tensor) -> Tensor:
            changed = hooks[name](value) if name in hooks else None
            return value if changed is None else changed

        x = at(IN, self.E[tokens])
        y = at(OUT, torch.tanh(x @ self.M))
        at(BEFORE_UNEMBED, x + y @ self.P)

    def _unembed(self, hidden: Tensor) -> Tensor:
        return hidden @ self.U

    def _final_path(self):
        return None, False, self.U

    def _direct(self, hook_name: str, path: Tensor) -> Tensor:
        return self.P if hook_name == OUT else path

    def _mlp_out(self, layer: int) -> Tensor:
        raise NotImplementedError

    def encode_batch(self, texts):
        return [[WORDS.index(f" {word}") for word in text.split()] for text in texts]

    def decode(self, ids) -> str:
        return "".join(WORDS[i] for i in ids)

    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(WORDS.__getitem__, self.d_vocab)

    def to(self, device) -> "TwoHooksModel":
        return self
