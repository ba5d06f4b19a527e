"""A model of another library behind the adapter: its text by its tokenizer, its way to the logits by measuring.

No parameter's name shows the computation between a layer and the logits: gains are stored as 1 + weight, logits are
scaled or capped, outputs of a layer pass a norm or a factor before they are added. ``data/probes.py`` has the forms
that are fitted to outputs of the model's own modules.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from monosem.data import probes
from monosem.data.adapter import Model, Replace
from monosem.data.unicode import check_texts
from monosem.data.vocabulary import Vocabulary
from monosem.ops.precision import as_given

_PROBED = 1000  # ids of probes are below: what stands for an image or a sound is above


class LibraryModel(Model):
    """A model whose layers have TransformerLens' hook names, and whose tokenizer is one of ``transformers``.

    Attributes:
        module: the library's own model.
        n_layers: layers of the residual stream.
    """

    module: Any  # its attributes are those of an optional package
    n_layers: int

    # ---------------------------------------------------------------- what each library brings

    @property
    @abstractmethod
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer. ValueError where there is none."""

    @abstractmethod
    def _unscaled(self, hidden: Tensor) -> Tensor:
        """[n, d_model] → what the module of the unembedding gives, [n, d_vocab]."""

    @abstractmethod
    def _end(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(what the unembedding reads, logits) of a forward pass: [B, T, d_model] and [B, T, d_vocab]."""

    @abstractmethod
    def _settings(self) -> Iterable[tuple[str, Any]]:
        """The settings of the model's configuration, among which a soft cap of the logits may be."""

    @abstractmethod
    def _norm_and_unembedding(self) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """(the final norm, W_U [d_model, d_vocab]). ValueError where nothing known is between stream and logits."""

    def to(self, device: torch.device | str) -> LibraryModel:
        if self.device != torch.device(device):
            self.module.to(device)
            vars(self).pop("_final", None)  # it stays where it was
        return self

    # ---------------------------------------------------------------- logits

    def _unembed(self, hidden: Tensor) -> Tensor:
        logits = self._unscaled(hidden)
        scale, cap = self._logit_form
        if cap is None:
            return logits if scale == 1 else logits * scale
        return cap * torch.tanh(logits * (scale / cap))

    @cached_property
    def _logit_form(self) -> tuple[float, float | None]:
        """Scale and soft cap between the unembedding and the logits, from one forward pass of a few tokens."""
        caps = {v for name, v in self._settings() if "cap" in name and type(v) in (int, float) and v > 0}
        with torch.no_grad():
            hidden, logits = self._end(self._probe_tokens())
            behind = self._unscaled(hidden.flatten(0, -2))
        try:
            return probes.logit_scale(behind, logits.flatten(0, -2), sorted(caps))
        except ValueError as error:
            raise ValueError(
                f"model: losses of {self.name!r} cannot be computed: {error}; wanted logits that are the unembedding, "
                "scaled or capped. Activations can be read; losses and logit weights cannot."
            ) from error

    def _probe_tokens(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        shape = (1, min(8, self.n_ctx))
        ids = torch.randint(min(self.d_vocab, _PROBED), shape, generator=generator, device="cpu")
        return ids.to(self.device)

    @cached_property
    def _final(self) -> tuple[Tensor | None, bool, Tensor]:
        norm, unembedding = self._norm_and_unembedding()
        if (width := self.width("blocks.0.hook_resid_post")) != len(unembedding):
            raise ValueError(
                f"model: {self.name!r} has no known linear path to its logits: its residual stream is {width} wide, "
                f"its unembedding reads {len(unembedding)}"
            )
        like = torch.empty(0, dtype=unembedding.dtype, device=unembedding.device)
        try:
            gain, centred = probes.norm_gain(norm, len(unembedding), like)
        except ValueError as error:
            raise ValueError(f"model: {self.name!r} has no linear path to its logits: {error}") from error
        scale = self._logit_form[0]
        return gain, centred, unembedding if scale == 1 else unembedding * scale

    def _final_path(self) -> tuple[Tensor | None, bool, Tensor]:
        return self._final

    @as_given
    def _direct(self, hook_name: str, path: Tensor) -> Tensor:
        """The path, times the layer's factor on its output, measured by moving the activations at the hook.

        Later layers add nothing meanwhile, so that what changes before the final norm came the direct way.
        """
        layer, point = int(hook_name.split(".")[1]), hook_name.split(".", 2)[2]
        at = hook_name
        if point == "hook_resid_mid":  # often a copy, for the MLP alone; the stream goes by it unchanged
            point, at = "hook_resid_pre", hook_name.replace("hook_resid_mid", "hook_resid_pre")
        own = {"hook_resid_pre": ("attn", "mlp"), "hook_resid_mid": ("mlp",), "hook_attn_out": ("mlp",)}.get(point, ())
        last = self.n_layers
        silent = [f"blocks.{layer}.hook_{part}_out" for part in own]
        silent += [f"blocks.{later}.hook_{part}_out" for later in range(layer + 1, last) for part in ("attn", "mlp")]
        if absent := next((name for name in silent if name not in self.hook_names), None):
            raise ValueError(
                f"hook_name: {hook_name!r} of {self.name!r} has no known linear path to the logits: a layer behind it "
                f"has no {absent!r}; wanted a hook of the last layer, as blocks.{last - 1}.hook_resid_post"
            )
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

    # ---------------------------------------------------------------- text

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
