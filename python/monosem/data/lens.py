"""TransformerLens on either side: its models behind our adapter, our weights as its models.

Two generations are served: 3.9 (``HookedTransformer``) and 4.3 (``TransformerBridge``). The library is imported only
when asked for.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosem.data import probes
from monosem.data.adapter import BEFORE_UNEMBED, Model, Replace
from monosem.data.language_model import Transformer
from monosem.data.native import NativeModel
from monosem.data.nearest import did_you_mean
from monosem.data.tokenizer import BOS
from monosem.data.unicode import check_texts
from monosem.data.vocabulary import Vocabulary
from monosem.ops.precision import as_given


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


class LensModel(Model):
    """A ``HookedTransformer`` or ``TransformerBridge``."""

    def __init__(self, module: torch.nn.Module, name: str | None = None) -> None:
        super().__init__()
        self.module: Any = module.eval()  # its further attributes are those of an optional package
        self._written: set[str] = set()
        cfg = self.module.cfg
        self.name = name or getattr(cfg, "model_name", None) or type(module).__name__
        self.n_ctx, self.d_vocab = cfg.n_ctx, cfg.d_vocab
        self.hook_names = list(self.module.hook_dict)
        if BEFORE_UNEMBED not in self.hook_names:
            raise ValueError(
                f"model: {self.name!r} has no hook {BEFORE_UNEMBED!r}; wanted a model of TransformerLens 3.9 or later"
            )

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    def to(self, device: torch.device | str) -> LensModel:
        if self.device != torch.device(device):
            self.module.to(device)
        return self

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

    def _unembed(self, hidden: Tensor) -> Tensor:
        logits = self.module.unembed(hidden[None])[0]
        scale, cap = self._logit_form
        if cap is None:
            return logits if scale == 1 else logits * scale
        return cap * torch.tanh(logits * (scale / cap))

    @cached_property
    def _logit_form(self) -> tuple[float, float | None]:
        """Scale and soft cap between the unembedding and the logits, from one forward pass of a few tokens."""
        cfgs = (self.module.cfg, getattr(getattr(self.module, "original_model", None), "config", None))
        caps = {
            v for c in cfgs for n, v in getattr(c, "__dict__", {}).items() if "cap" in n and type(v) in (int, float)
        }
        kept = []
        with torch.no_grad():
            logits = self.module.run_with_hooks(
                self._probe_tokens(),
                return_type="logits",
                fwd_hooks=[(BEFORE_UNEMBED, lambda value, hook=None: kept.append(value))],
            )
            behind = self.module.unembed(kept[-1])
        try:
            return probes.logit_scale(behind.flatten(0, -2), logits.flatten(0, -2), sorted(c for c in caps if c > 0))
        except ValueError as error:
            raise ValueError(
                f"model: losses of {self.name!r} cannot be computed: {error}; wanted logits that are the unembedding, "
                "scaled or capped. Activations can be read; losses and logit weights cannot."
            ) from error

    def _probe_tokens(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        shape = (1, min(8, self.n_ctx))
        return torch.randint(self.d_vocab, shape, generator=generator, device="cpu").to(self.device)

    @cached_property
    def _final(self) -> tuple[Tensor | None, bool, Tensor]:
        unembedding = self.module.W_U
        if (width := self.width("blocks.0.hook_resid_post")) != len(unembedding):
            raise ValueError(
                f"model: {self.name!r} has no known linear path to its logits: its residual stream is {width} wide, "
                f"its unembedding reads {len(unembedding)}"
            )
        like = torch.empty(0, dtype=unembedding.dtype, device=unembedding.device)
        try:
            gain, centred = probes.norm_gain(
                getattr(self.module, "ln_final", torch.nn.Identity()), len(unembedding), like
            )
        except ValueError as error:
            raise ValueError(f"model: {self.name!r} has no linear path to its logits: {error}") from error
        return gain, centred, unembedding * self._logit_form[0]

    def _final_path(self) -> tuple[Tensor | None, bool, Tensor]:
        return self._final

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

    @as_given
    def _direct(self, hook_name: str, path: Tensor) -> Tensor:
        """The path, times the layer's factor on its output, measured by moving the activations at the hook.

        Later layers add nothing meanwhile, so that what changes before the final norm came the direct way.
        """
        layer, point = int(hook_name.split(".")[1]), hook_name.split(".", 2)[2]
        at = hook_name
        if point == "hook_resid_mid":  # a bridge has a copy there, for the MLP alone; the stream goes by it unchanged
            point, at = "hook_resid_pre", hook_name.replace("hook_resid_mid", "hook_resid_pre")
        own = {"hook_resid_pre": ("attn", "mlp"), "hook_resid_mid": ("mlp",), "hook_attn_out": ("mlp",)}.get(point, ())
        last = self.module.cfg.n_layers
        silent = [f"blocks.{layer}.hook_{part}_out" for part in own]
        silent += [f"blocks.{later}.hook_{part}_out" for later in range(layer + 1, last) for part in ("attn", "mlp")]
        final = "ln_final.hook_in" if "ln_final.hook_in" in self.hook_names else f"blocks.{last - 1}.hook_resid_post"
        still: dict[str, Replace] = {name: torch.zeros_like for name in silent}
        tokens = self._probe_tokens()
        before = self._by_token(self._run(tokens, self._replacements(tokens, still), final), tokens.shape, final)
        generator = torch.Generator().manual_seed(0)
        moved = torch.randn(*tokens.shape, len(path), generator=generator, dtype=torch.float32, device="cpu").to(path)
        predicted = moved @ path
        size = 4 * before.float().square().mean().sqrt() / predicted.square().mean().sqrt()
        change: dict[str, Replace] = still | {at: lambda value: value + size * moved}
        after = self._by_token(self._run(tokens, self._replacements(tokens, change), final), tokens.shape, final)
        try:
            return path * probes.multiple(after.float() - before.float(), size * predicted, before.dtype)
        except ValueError as error:
            raise ValueError(
                f"hook_name: {hook_name!r} has no linear path to the logits of {self.name!r} ({error}; a norm behind "
                f"the layer, say); wanted the residual stream, as blocks.{layer}.hook_resid_post"
            ) from error

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        # A text that spells a special token means its letters: it may be about tokenizers.
        tokenizer = self.tokenizer
        encodings = tokenizer(check_texts(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
        special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        return [ids if special.isdisjoint(ids) else self._spelled_out(ids, special) for ids in encodings]

    def _spelled_out(self, ids: Sequence[int], special: set[int]) -> list[int]:
        """Special tokens letter by letter: Unigram models (T5) have them among their words and find them there."""
        names = self.tokenizer.convert_ids_to_tokens
        letters = self.tokenizer.convert_tokens_to_ids
        return [j for i in ids for j in (letters(list(names(i))) if i in special else [i])]

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _vocabulary(self) -> Vocabulary:
        known = len(self.tokenizer)  # the unembedding may be padded beyond it
        entry = lambda i: self.tokenizer.convert_ids_to_tokens(i) if i < known else None
        return Vocabulary(entry, known, self.tokenizer)


def load_pretrained(name: str) -> LensModel:
    """A model that TransformerLens knows by name, its weights unprocessed (no folding, no centring)."""
    try:
        library = _library()
    except ImportError as error:
        raise ValueError(
            f"model: {name!r} is neither a bundled model nor a folder, and without TransformerLens no other can be "
            "loaded. Check the name, or `pip install transformer-lens`."
        ) from error
    try:
        if int(library_version().split(".")[0]) >= 4:
            module = library.TransformerBridge.boot_transformers(name)
        else:
            module = library.HookedTransformer.from_pretrained_no_processing(name)
    except Exception as error:
        raise ValueError(
            f"model: {name!r} is neither a bundled model nor a folder, and TransformerLens could not load it "
            f"({type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'})."
            + did_you_mean(name, _names(library))
        ) from error
    return LensModel(module, name)


def _names(library: Any) -> list[str]:
    """The models that the library says it knows, by their names there and at Hugging Face."""
    for module in ("supported_models", "loading_from_pretrained"):  # 4.x, 3.x
        try:
            aliases = importlib.import_module(f"{library.__name__}.{module}").MODEL_ALIASES
        except (ImportError, AttributeError):
            continue
        return [*aliases, *(short for all_short in aliases.values() for short in all_short)]
    return []


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
