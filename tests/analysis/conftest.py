"""A language model of one matrix, whose every figure can be computed by hand, and dictionaries to match."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import monosem as ms

HOOK = "blocks.0.mlp.hook_post"
# What the vocabulary shows; 4 and 5 are the two bytes of one Arabic letter.
PIECES = ["<|bos|>", " the", "</script><b>", "\n", "⟨D8⟩", "⟨A7⟩", "مر", "שלום", "a&b", " ", "\u200f", "x", "y", "z"]
BYTES = {4: b"\xd8", 5: b"\xa7"}


class MatrixModel:
    """activation = E[token] at the hook, logits = activation · U."""

    name, n_ctx, bos_id = "matrix", 12, 0
    d_vocab = len(PIECES)
    hook_names = [HOOK]

    def __init__(self, d: int = 6) -> None:
        generator = torch.Generator().manual_seed(3)
        self.E = torch.randn(self.d_vocab, d, generator=generator)
        self.U = torch.randn(d, self.d_vocab, generator=generator)

    def width(self, hook_name: str) -> int:
        if hook_name not in self.hook_names:
            raise ValueError(f"hook_name: got {hook_name!r}; the nearest are {self.hook_names}")
        return self.E.shape[1]

    def activations(self, tokens: torch.Tensor, hook_name: str) -> torch.Tensor:
        self.width(hook_name)
        return self.E[tokens]

    def token_losses(self, tokens: torch.Tensor, replace=None) -> torch.Tensor:
        x = self.E[tokens]
        for name, change in (replace or {}).items():
            self.width(name)
            x = change(x)
        logp = (x @ self.U).log_softmax(-1)
        return -logp[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]

    def logit_directions(self, hook_name: str) -> torch.Tensor:
        return self.U

    def token_str(self, token: int) -> str:
        return PIECES[token]

    def decode(self, ids) -> str:
        return b"".join(BYTES.get(i, PIECES[i].encode()) for i in ids if i != self.bos_id).decode(errors="replace")

    text_within = decode


def dictionary(d: int, dead: int = 2) -> ms.ReLUSAE:
    """f = (ReLU(x), ReLU(−x), zeros): reconstructs anything, and its last ``dead`` features never fire."""
    sae = ms.ReLUSAE(d, 2 * d + dead, l1_coefficient=0.0)
    eye = torch.eye(d)
    with torch.no_grad():
        sae.W_dec.zero_()[: 2 * d] = torch.cat([eye, -eye])
        sae.W_enc_rows.copy_(sae.W_dec)
        sae.b_enc.zero_()
        sae.b_enc[2 * d :] = -1.0
        sae.b_dec.zero_()
    return sae


def text(rows: int = 10, seed: int = 0) -> SimpleNamespace:
    """Random rows behind a BOS, each of one source: ar_x, base64 or code."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(1, len(PIECES), (rows, MatrixModel.n_ctx)).astype(np.int32)
    tokens[:, 0] = 0
    source = np.repeat(np.arange(rows) % 3, MatrixModel.n_ctx).reshape(rows, -1).astype(np.uint16)
    return SimpleNamespace(tokens=tokens, source=source, sources=["ar_x", "base64", "code"])


@pytest.fixture
def model() -> MatrixModel:
    return MatrixModel()


@pytest.fixture
def rows() -> SimpleNamespace:
    return text()


@pytest.fixture
def exact(model) -> ms.ReLUSAE:
    """A dictionary that reconstructs exactly and has two dead features."""
    return dictionary(model.E.shape[1])


@pytest.fixture
def lossy(model) -> ms.TopKSAE:
    """A random dictionary: every figure is something in between."""
    return ms.TopKSAE(model.E.shape[1], 20, k=3, seed=1)


@pytest.fixture
def hook() -> str:
    return HOOK
