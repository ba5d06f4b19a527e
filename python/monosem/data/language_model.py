"""A small decoder-only transformer: the model that *Towards Monosemanticity* studies, and its hook points.

It is written for training on a CPU and for running without TransformerLens; ``data/models.py`` gives the same
weights as a TransformerLens model. Hook names are TransformerLens'.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monosem.data.head_loss import head_loss
from monosem.data.lm_config import LMConfig

Hook = Callable[[Tensor], Tensor | None]


FP32: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}  # independent of the defaults of the process


class Block(nn.Module):
    """Pre-LayerNorm attention and a ReLU MLP, both added to the residual stream."""

    def __init__(self, cfg: LMConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.ln1 = nn.LayerNorm(cfg.d_model, eps=cfg.ln_eps, **FP32)
        self.qkv = nn.Linear(cfg.d_model, 3 * cfg.d_model, **FP32)
        self.out = nn.Linear(cfg.d_model, cfg.d_model, **FP32)
        self.ln2 = nn.LayerNorm(cfg.d_model, eps=cfg.ln_eps, **FP32)
        self.mlp_in = nn.Linear(cfg.d_model, cfg.d_mlp, **FP32)
        self.mlp_out = nn.Linear(cfg.d_mlp, cfg.d_model, **FP32)

    def forward(self, resid: Tensor, point: "_Points") -> Tensor:
        batch, length, _ = resid.shape
        resid = point("hook_resid_pre", resid)
        q, k, v = self.qkv(self.ln1(resid)).view(batch, length, 3, self.cfg.n_heads, -1).permute(2, 0, 3, 1, 4)
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        attn_out = point("hook_attn_out", self.out(z.transpose(1, 2).reshape(batch, length, -1)))
        resid = point("hook_resid_mid", resid + attn_out)
        pre = point("mlp.hook_pre", self.mlp_in(self._mlp_input(resid, point)))
        post = point("mlp.hook_post", F.relu(pre, inplace="mlp.hook_pre" not in point))
        mlp_out = point("hook_mlp_out", self.mlp_out(post))
        return point("hook_resid_post", resid + mlp_out)

    def _mlp_input(self, resid: Tensor, point: "_Points") -> Tensor:
        """``ln2(resid)``. The hook is before its weight and bias, as in TransformerLens."""
        name = "ln2.hook_normalized"
        if name not in point:
            return self.ln2(resid)
        normalized = F.layer_norm(resid, resid.shape[-1:], eps=self.cfg.ln_eps)
        changed = point(name, normalized)
        if changed is normalized:  # only read: the same bits as without the hook
            return self.ln2(resid)
        return changed * self.ln2.weight + self.ln2.bias


class _Points:
    """The hooks whose names begin with ``prefix``."""

    def __init__(self, hooks: "dict[str, Hook]", prefix: str) -> None:
        self.hooks, self.prefix = hooks, prefix

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.hooks

    def __call__(self, name: str, value: Tensor) -> Tensor:
        changed = self.hooks[self.prefix + name](value) if name in self else None
        return value if changed is None else changed


_BLOCK_POINTS = [
    "hook_resid_pre",
    "hook_attn_out",
    "hook_resid_mid",
    "ln2.hook_normalized",
    "mlp.hook_pre",
    "mlp.hook_post",
    "hook_mlp_out",
    "hook_resid_post",
]


class Transformer(nn.Module):
    """Tokens [B, T] → logits [B, T, d_vocab], with named hook points.

    Learned positions, LayerNorm with weights, untied unembedding with a bias.
    """

    fingerprint_name = "LanguageModel"  # of these weights in files: the name of the class when they were first written

    def __init__(self, cfg: LMConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.embed = nn.Embedding(cfg.d_vocab, cfg.d_model, **FP32)
        self.pos_embed = nn.Embedding(cfg.n_ctx, cfg.d_model, **FP32)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.n_layers))
        self.ln_final = nn.LayerNorm(cfg.d_model, eps=cfg.ln_eps, **FP32)
        self.W_U = nn.Parameter(torch.empty(cfg.d_model, cfg.d_vocab, **FP32))
        self.b_U = nn.Parameter(torch.zeros(cfg.d_vocab, **FP32))

    def init_weights(self, seed: int) -> "Transformer":
        """Normal weights, std 0.02 for embeddings and 1/√fan_in elsewhere (halved into the residual stream)."""
        generator = torch.Generator().manual_seed(seed)
        for name, p in self.named_parameters():
            if p.ndim < 2:
                nn.init.ones_(p) if "ln" in name and name.endswith("weight") else nn.init.zeros_(p)
                continue
            fan_in = p.shape[0] if name == "W_U" else p.shape[1]
            std = 0.02 if "embed" in name else fan_in**-0.5
            std *= 0.5 if ".out." in name or "mlp_out" in name or name == "W_U" else 1.0
            nn.init.normal_(p, std=std, generator=generator)
        return self

    @property
    def layers(self) -> list[Block]:
        """The blocks, in order."""
        return cast("list[Block]", list(self.blocks))

    @property
    def hook_names(self) -> list[str]:
        """Every hook point, in the order in which the forward pass reaches them."""
        return [f"blocks.{i}.{p}" for i in range(self.cfg.n_layers) for p in _BLOCK_POINTS] + ["unembed.hook_in"]

    def trunk(self, tokens: Tensor, hooks: dict[str, Hook] | None = None) -> Tensor:
        """The forward pass up to the input of the unembedding: [B, T, d_model]."""
        hooks = hooks or {}
        resid = self.embed(tokens) + self.pos_embed.weight[: tokens.shape[1]]
        for index, block in enumerate(self.blocks):
            resid = block(resid, _Points(hooks, f"blocks.{index}."))
        return _Points(hooks, "unembed.")("hook_in", self.ln_final(resid))

    def forward(self, tokens: Tensor, hooks: dict[str, Hook] | None = None) -> Tensor:
        return self.trunk(tokens, hooks) @ self.W_U + self.b_U


def next_token_loss(model: Transformer, rows: Tensor, products: torch.dtype = torch.float32) -> Tensor:
    """Mean nats per token of rows [B, n_ctx + 1] (see ``pack_contexts``), memory bounded for any vocabulary.

    ``products`` is the precision of the factors of the unembedding's three matrix products; all else is in fp32.
    """
    h = model.trunk(rows[:, :-1]).flatten(0, 1).contiguous()
    return head_loss(h, model.W_U, model.b_U, rows[:, 1:].flatten().long(), products)
