"""The shape of the small language model. Without PyTorch: ``monosem lm train`` has an option for each field."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LMConfig:
    """Shape of the model. The defaults are the paper's where it states them (section 1 and its appendix).

    Attributes:
        d_vocab: size of the vocabulary.
        n_ctx: longest context.
        n_layers: transformer blocks.
        d_model: width of the residual stream.
        n_heads: attention heads.
        d_mlp: neurons per block.
        ln_eps: added to the variance in LayerNorm.
    """

    d_vocab: int = 8192
    n_ctx: int = 256
    n_layers: int = 1
    d_model: int = 128
    n_heads: int = 4
    d_mlp: int = 512
    ln_eps: float = 1e-5

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_heads

    def __post_init__(self) -> None:
        if self.d_model % self.n_heads:
            raise ValueError(f"n_heads: got {self.n_heads}; wanted a divisor of d_model={self.d_model}")
