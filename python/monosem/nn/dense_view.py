"""An autoencoder with the interface of SAELens and SAEBench: dense activations, and a configuration by their names."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from monosem.nn.config import TrainedOn
from monosem.nn.dense_config import DenseConfig
from monosem.ops.precision import as_given

_LAYER = re.compile(r"\.(\d+)(?:\.|$)")


class DenseView(nn.Module):
    """What ``SAE.dense`` gives. The weights are those of the autoencoder, not copies.

    ``encode``: x [..., d_in] → f [..., d_sae], dense; ``decode``: f → [..., d_in]; ``forward``: the reconstruction.

    Attributes:
        sae: the autoencoder.
        cfg: its configuration by SAELens' and SAEBench's names, ``nn.dense_config.DenseConfig``.
        norms: [d_sae], by which values are multiplied and decoder rows divided; None: they stay.
    """

    sae: Any  # a monosem.nn.SAE, whose module imports this one
    norms: Tensor | None

    def __init__(self, sae: Any, unit_rows: bool) -> None:
        super().__init__()
        if sae.cfg.trained_on is not TrainedOn.ONE:
            raise ValueError(
                f"dense: got {sae.cfg.describe()}; wanted an autoencoder that reconstructs its input: the interface "
                "has no other output"
            )
        self.sae = sae
        norms = sae.W_dec.detach().norm(dim=1) if unit_rows and not sae.has_unit_rows else None
        self.register_buffer("norms", norms, persistent=False)
        self.cfg = self._config()

    def _config(self) -> DenseConfig:
        sae, known = self.sae, self.sae.metadata
        hook = known.get("hook_name")
        layer = _LAYER.search(hook) if isinstance(hook, str) else None
        k: Any = getattr(sae.cfg, "k", None)
        return DenseConfig(
            model_name=known.get("model"),
            hook_name=hook,
            hook_layer=int(layer[1]) if layer else None,
            context_size=known.get("context"),
            architecture=sae.cfg.kind,
            d_in=sae.cfg.d_in,
            d_sae=sae.cfg.d_sae,
            dtype=str(self.dtype).removeprefix("torch."),
            device=str(self.device),
            apply_b_dec_to_input=sae.is_centred,
            activation_fn_str="relu" if k is None else "topk",
            activation_fn_kwargs={} if k is None else {"k": k},
        )

    def _apply(self, fn: Any, recurse: bool = True) -> DenseView:
        """``to``, ``half``, ``cuda`` …: the configuration names dtype and device too."""
        moved = super()._apply(fn, recurse)
        self.cfg.dtype, self.cfg.device = str(self.dtype).removeprefix("torch."), str(self.device)
        return moved

    @property
    def device(self) -> torch.device:
        return self.sae.W_dec.device

    @property
    def dtype(self) -> torch.dtype:
        return self.sae.W_dec.dtype

    @property
    def W_enc(self) -> Tensor:
        """[d_in, d_sae]."""
        return self.sae.W_enc if self.norms is None else self.sae.W_enc * self.norms

    @property
    def W_dec(self) -> Tensor:
        """[d_sae, d_in]."""
        return self.sae.W_dec if self.norms is None else self.sae.W_dec / self._divisors()[:, None]

    @property
    def b_enc(self) -> Tensor:
        """[d_sae]."""
        return self.sae.b_enc if self.norms is None else self.sae.b_enc * self.norms

    @property
    def b_dec(self) -> Tensor:
        """[d_in]."""
        return self.sae.b_dec

    def _divisors(self) -> Tensor:
        assert self.norms is not None
        return self.norms.clamp(min=torch.finfo(self.norms.dtype).tiny)

    def encode(self, x: Tensor) -> Tensor:
        """The activations of x [..., d_in] as a tensor [..., d_sae]."""
        f = self.sae.encode(x.to(self.dtype)).to_dense()
        return f if self.norms is None else f * self.norms

    @as_given
    def decode(self, feature_acts: Tensor) -> Tensor:
        """``f·W_dec + b_dec`` for any f [..., d_sae], changed or not."""
        f = feature_acts if self.norms is None else feature_acts / self._divisors()
        return f @ self.sae.W_dec + self.sae.b_dec

    def forward(self, x: Tensor) -> Tensor:
        return self.sae(x.to(self.dtype))
