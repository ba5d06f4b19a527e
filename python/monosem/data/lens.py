"""TransformerLens on either side: its models behind our adapter, our weights as its models.

Two generations are served: 3.9 (``HookedTransformer``) and 4.3 (``TransformerBridge``). The library is imported only
when asked for.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosem.data.adapter import BEFORE_UNEMBED, Model, Replace
from monosem.data.language_model import Transformer
from monosem.data.library_model import LibraryModel
from monosem.data.native import NativeModel
from monosem.data.nearest import did_you_mean
from monosem.data.tokenizer import BOS

LENS = "lens:"  # before the name of a model that TransformerLens shall load


def _library() -> Any:
    try:
        import transformer_lens
    except ImportError as error:
        raise ImportError(
            "TransformerLens is not installed; this model needs it. Install it with `pip install transformer-lens`."
        ) from error
    return transformer_lens


def _is_bridge(model: Any) -> bool:
    return type(model).__name__.endswith("Bridge")


class LensModel(LibraryModel):
    """A ``HookedTransformer`` or ``TransformerBridge``."""

    def __init__(self, module: torch.nn.Module, name: str | None = None) -> None:
        super().__init__()
        self.module = module.eval()
        self._written: set[str] = set()
        cfg = self.module.cfg
        self.name = name or getattr(cfg, "model_name", None) or type(module).__name__
        self.n_ctx, self.d_vocab, self.n_layers = cfg.n_ctx, cfg.d_vocab, cfg.n_layers
        self.hook_names = list(self.module.hook_dict)
        if BEFORE_UNEMBED not in self.hook_names:
            raise ValueError(
                f"model: {self.name!r} has no hook {BEFORE_UNEMBED!r}; wanted a model of TransformerLens 3.9 or later"
            )

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer of the model."""
        if self.module.tokenizer is None:
            raise ValueError(f"model: {self.name!r} has no tokenizer; wanted one, to read or write text")
        return self.module.tokenizer

    @property
    def bos_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        if bos is None:
            raise ValueError(f"model: the tokenizer of {self.name!r} has no BOS token; set its `bos_token`")
        return bos

    def _forward(self, tokens: Tensor, hooks: dict[str, Callable[[Tensor], Tensor | None]]) -> None:
        def lens(hook: Callable[[Tensor], Tensor | None]) -> Callable[..., Tensor | None]:
            return lambda value, hook=None, ours=hook: ours(value)

        options = {}
        if not _is_bridge(self.module) and getattr(self.module.tokenizer, "padding_side", None) == "left":
            # It would treat a BOS at the start of a row as padding, if they share an id, and count positions after it.
            options["attention_mask"] = torch.ones_like(tokens)
        self.module.run_with_hooks(
            tokens, return_type="logits", fwd_hooks=[(n, lens(h)) for n, h in hooks.items()], **options
        )

    def _unscaled(self, hidden: Tensor) -> Tensor:
        return self.module.unembed(hidden[None])[0]

    def _end(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        kept = []
        last = (BEFORE_UNEMBED, lambda value, hook=None: kept.append(value))
        with self._passing:
            logits = self.module.run_with_hooks(tokens, return_type="logits", fwd_hooks=[last])
        return kept[-1], logits

    def _settings(self) -> Iterable[tuple[str, Any]]:
        for cfg in (self.module.cfg, getattr(getattr(self.module, "original_model", None), "config", None)):
            yield from getattr(cfg, "__dict__", {}).items()

    def _norm_and_unembedding(self) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        return getattr(self.module, "ln_final", torch.nn.Identity()), self.module.W_U

    def _mlp_out(self, layer: int) -> Tensor:
        try:
            return self.module.W_out[layer]
        except AttributeError as error:  # experts, each with its own
            raise ValueError(
                f"hook_name: 'blocks.{layer}.mlp.hook_post' of {self.name!r} has no linear path to the logits: its MLP "
                f"has no one W_out; wanted blocks.{layer}.hook_mlp_out or the residual stream"
            ) from error

    def check_written(self, hook_name: str) -> None:
        if not hook_name.endswith(".hook_resid_mid") or hook_name in self._written:
            return
        layer = hook_name.split(".")[1]
        tokens, after = self._probe_tokens(), f"blocks.{layer}.hook_resid_post"
        with torch.no_grad():  # the MLP silent: what changes behind the layer came along the residual stream
            still: dict[str, Replace] = {f"blocks.{layer}.hook_mlp_out": torch.zeros_like}
            before = self._run(tokens, still, after)
            moved = self._run(tokens, {**still, hook_name: lambda value: value + 1 + value.abs()}, after)
        if torch.equal(before, moved):
            raise ValueError(
                f"replace: {hook_name!r} of {self.name!r} is a copy for the MLP alone, and what is put there "
                f"does not reach the residual stream; wanted a hook that is written, as {after!r}. Activations can be "
                "read there; for losses, ablations and steering take another hook, or HookedTransformer."
            )
        self._written.add(hook_name)


def load_pretrained(name: str) -> LensModel:
    """A model that TransformerLens knows by name, its weights unprocessed (no folding, no centring).

    Args:
        name: one of its own (``gpt2-small``), or any that it loads with ``lens:`` before it.

    Raises:
        ImportError: TransformerLens is not installed.
        ValueError: it could not load the model.
    """
    library, asked = _library(), name.removeprefix(LENS)
    try:
        if int(library_version().split(".")[0]) >= 4:
            module = library.TransformerBridge.boot_transformers(asked)
        else:
            module = library.HookedTransformer.from_pretrained_no_processing(asked)
    except Exception as error:
        raise ValueError(
            f"model: {name!r} could not be loaded by TransformerLens "
            f"({type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'})."
            + did_you_mean(asked, [*_aliases(), *own_names()])
        ) from error
    return LensModel(module, name)


def own_names() -> list[str]:
    """The names that TransformerLens has for models and Hugging Face has not; none where it is not installed."""
    aliases = _aliases()
    return [short for names in aliases.values() for short in names if short not in aliases]


def _aliases() -> dict[str, list[str]]:
    """{name of a model at Hugging Face: TransformerLens' names for it}."""
    if find_spec("transformer_lens") is None:
        return {}
    for module in ("supported_models", "loading_from_pretrained"):  # 4.x, 3.x
        try:
            return importlib.import_module(f"transformer_lens.{module}").MODEL_ALIASES
        except (ImportError, AttributeError):
            continue
    return {}


def library_version() -> str:
    """The version of TransformerLens that would be imported."""
    from importlib.metadata import version

    return version("transformer-lens")


def to_lens(model: Model) -> torch.nn.Module:
    """See :func:`monosem.data.models.as_transformer_lens`."""
    if isinstance(model, LensModel):
        return model.module
    if not isinstance(model, NativeModel):
        raise ValueError(f"model: got {type(model).__name__}; wanted one of monosem's own, or one of TransformerLens")
    module = model.module
    library, cfg = _library(), module.cfg
    bridge = int(library_version().split(".")[0]) >= 4
    shape = dict(
        n_layers=cfg.n_layers,
        d_model=cfg.d_model,
        d_mlp=cfg.d_mlp,
        d_head=cfg.d_head,
        n_heads=cfg.n_heads,
        n_ctx=cfg.n_ctx,
        d_vocab=cfg.d_vocab,
        act_fn="relu",
        normalization_type="LN",
        eps=cfg.ln_eps,
        model_name=f"monosem-{Path(model.name).name}",
        seed=0,
        device="cpu",
    )
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = _hugging_face(model.tokenizer, folder)
        if bridge:
            lens_model = library.TransformerBridge.boot_native(
                library.TransformerBridgeConfig(**shape), tokenizer=tokenizer
            )
        else:
            lens_model = library.HookedTransformer(library.HookedTransformerConfig(**shape), tokenizer=tokenizer)
    weights = _bridge_weights(module) if bridge else _hooked_weights(module)
    missing, unexpected = lens_model.load_state_dict(weights, strict=False)
    missing = [k for k in missing if not k.endswith(("attn.mask", "attn.IGNORE"))]  # constants, not weights
    if missing or unexpected:
        raise RuntimeError(f"TransformerLens {library_version()} names its weights otherwise: {missing}, {unexpected}")
    lens_model.cfg.model_name = shape["model_name"]  # the bridge gives all its native models one name
    return lens_model if model.device.type == "cpu" else lens_model.to(model.device)


def _hugging_face(tokenizer: Any, folder: str) -> Any:
    """Our tokenizer as a Hugging Face one. TransformerLens needs one that was loaded from a folder."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    special = dict.fromkeys(("bos_token", "eos_token", "pad_token"), BOS)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def _hooked_weights(module: Transformer) -> dict[str, Tensor]:
    heads, width = module.cfg.n_heads, module.cfg.d_model
    out = {
        "embed.W_E": module.embed.weight,
        "pos_embed.W_pos": module.pos_embed.weight,
        "ln_final.w": module.ln_final.weight,
        "ln_final.b": module.ln_final.bias,
        "unembed.W_U": module.W_U,
        "unembed.b_U": module.b_U,
    }
    for index, block in enumerate(module.layers):
        at = f"blocks.{index}."
        for letter, weight, bias in zip("QKV", block.qkv.weight.chunk(3), block.qkv.bias.chunk(3), strict=True):
            out[f"{at}attn.W_{letter}"] = weight.view(heads, -1, width).transpose(1, 2)
            out[f"{at}attn.b_{letter}"] = bias.view(heads, -1)
        out |= {
            f"{at}ln1.w": block.ln1.weight,
            f"{at}ln1.b": block.ln1.bias,
            f"{at}ln2.w": block.ln2.weight,
            f"{at}ln2.b": block.ln2.bias,
            f"{at}attn.W_O": block.out.weight.T.reshape(heads, -1, width),
            f"{at}attn.b_O": block.out.bias,
            f"{at}mlp.W_in": block.mlp_in.weight.T,
            f"{at}mlp.b_in": block.mlp_in.bias,
            f"{at}mlp.W_out": block.mlp_out.weight.T,
            f"{at}mlp.b_out": block.mlp_out.bias,
        }
    return {k: v.detach().clone() for k, v in out.items()}


def _bridge_weights(module: Transformer) -> dict[str, Tensor]:
    out = {
        "embed.weight": module.embed.weight,
        "pos_embed.weight": module.pos_embed.weight,
        "ln_final.weight": module.ln_final.weight,
        "ln_final.bias": module.ln_final.bias,
        "unembed.weight": module.W_U.T,
        "unembed.bias": module.b_U,
    }
    for index, block in enumerate(module.layers):
        at = f"blocks.{index}."
        parts = {
            "ln1": block.ln1,
            "ln2": block.ln2,
            "attn.o": block.out,
            "mlp.in": block.mlp_in,
            "mlp.out": block.mlp_out,
        }
        for name, part in parts.items():
            out |= {f"{at}{name}.weight": part.weight, f"{at}{name}.bias": part.bias}
        for letter, weight, bias in zip("qkv", block.qkv.weight.chunk(3), block.qkv.bias.chunk(3), strict=True):
            out |= {f"{at}attn.{letter}.weight": weight, f"{at}attn.{letter}.bias": bias}
    return {k: v.detach().clone() for k, v in out.items()}
