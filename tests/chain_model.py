"""A language model whose next token is known: token i is followed by i + 1, and a feature stands for each."""

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

import monosem as ms
from monosem.data.adapter import BEFORE_UNEMBED, Model
from monosem.data.vocabulary import Vocabulary

HOOK = "blocks.0.mlp.hook_post"
LETTERS = "_abcdefghijklmnop"  # 0 is the BOS


class ChainModel(Model):
    """x = one-hot(token) at the hook; logits = sharpness · x · P, P the shift i → i + 1 (the last → 1)."""

    name, n_ctx, d_vocab = "chain", 24, len(LETTERS)
    hook_names = [HOOK, BEFORE_UNEMBED]
    device, bos_id = torch.device("cpu"), 0

    def __init__(self, sharpness: float = 12.0) -> None:
        super().__init__()
        after = [1, *range(2, self.d_vocab), 1]
        self.U = sharpness * torch.eye(self.d_vocab)[after]

    def _forward(self, tokens: Tensor, hooks: dict) -> None:
        x = torch.eye(self.d_vocab)[tokens]
        for name in self.hook_names:
            if name in hooks:
                changed = hooks[name](x)
                x = x if changed is None else changed

    def _unembed(self, hidden: Tensor) -> Tensor:
        return hidden @ self.U

    def _final_path(self):
        return None, False, self.U

    def _mlp_out(self, layer: int) -> Tensor:
        return torch.eye(self.d_vocab)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [[LETTERS.index(c) for c in text] for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(LETTERS[i] for i in ids)

    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(LETTERS.__getitem__, self.d_vocab)

    def to(self, device) -> "ChainModel":
        return self


def letters_sae(scale: float = 1.0) -> ms.ReLUSAE:
    """Feature i is scale·1[token i]: reconstructs the activation exactly when ``scale`` is 1."""
    d = len(LETTERS)
    sae = ms.ReLUSAE(d, d)
    with torch.no_grad():
        sae.W_dec.copy_(torch.eye(d))
        sae.W_enc_rows.copy_(scale * torch.eye(d))
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    return sae


def chain_rows(rows: int = 12) -> SimpleNamespace:
    """Rows of the source ``ar_low`` go round a…h, those of ``other`` round i…p; each behind a BOS."""
    length = ChainModel.n_ctx
    position = np.arange(length - 1)
    tokens, source = np.zeros((rows, length), dtype=np.int32), np.zeros((rows, length), dtype=np.uint8)
    for r in range(rows):
        tokens[r, 1:] = 1 + (position + r) % 8 + 8 * (r % 2)
        source[r] = r % 2
    return SimpleNamespace(tokens=tokens, source=source, sources=["ar_low", "other"])
