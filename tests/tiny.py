"""A tiny random language model with a real tokenizer, behind the same adapter as the shipped ones."""

from monosem.data.language_model import LMConfig, Transformer
from monosem.data.native import NativeModel
from monosem.data.text import Document
from monosem.data.tokenizer import train_tokenizer

HOOK = "blocks.0.mlp.hook_post"
TEXTS = {
    "en": "the quick brown fox jumps over the lazy dog and the other dog looks on while the fox runs away",
    "he": "שלום עולם זה משפט קצר בעברית ועוד משפט אחד",
    "dna": "acgtacgtttgacacgtgacgatcgatcgatcgtagctagctagctgactgac",
    "code": "def f(x):\n    return x + 1\n\nfor i in range(10):\n    print(f(i))\n",
}


def tiny_documents(copies: int = 8) -> list[Document]:
    """A few short documents of four sources, no two alike."""
    return [Document(name, f"{text} {i} {text[: 7 * i]}") for i in range(copies) for name, text in TEXTS.items()]


def tiny_model(n_layers: int = 1, seed: int = 0, n_ctx: int = 32) -> NativeModel:
    """d_model 16, 2 heads, d_mlp 32, 300 tokens; random weights, biases and LayerNorm gains too."""
    import torch

    tokenizer = train_tokenizer((d.text for d in tiny_documents()), 300)
    cfg = LMConfig(d_vocab=300, n_ctx=n_ctx, n_layers=n_layers, d_model=16, n_heads=2, d_mlp=32)
    module = Transformer(cfg).init_weights(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for p in module.parameters():
            if p.ndim == 1:
                p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return NativeModel(module, tokenizer, "tiny")
