"""Models of Hugging Face behind our adapter: any of ``transformers`` that reads tokens; it is imported when used.

Hooks are the inputs and outputs of modules by their names (``data/places.py``), and TransformerLens' names where the
model's structure shows what they stand for (``data/structure.py``). An encoder has activations and no next token.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from monosem.data import structure
from monosem.data.adapter import BEFORE_UNEMBED, Replace
from monosem.data.cached_writing import CachedWriter, Position, continued
from monosem.data.library_model import LibraryModel
from monosem.data.model_names import DTYPES, ModelName
from monosem.data.places import INPUT, Place, by_token

CONTEXTS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length", "n_ctx")
UNLIMITED = 2048  # tokens of a context of a model that names no limit
_PROBE = (2, 7)  # rows and tokens of the pass that finds the structure: primes, which no width is by chance
EXTRA = "pip install 'monosem[hf]' (or pip install transformers)"


class NotLoaded(ValueError):
    """A name or a folder that transformers could not load."""


class HuggingFaceModel(LibraryModel):
    """A model of ``transformers`` with its tokenizer.

    Args:
        module: a ``PreTrainedModel``. It is put into evaluation mode.
        tokenizer: its tokenizer; None: the one of ``module.name_or_path``, loaded when text is read or written.
        name: as files shall call the model; default: ``module.name_or_path``.

    Attributes:
        predicts: whether it predicts the next token: it has an unembedding, and no token is changed by a later one.
    """

    def __init__(self, module: nn.Module, tokenizer: Any = None, name: str | None = None) -> None:
        super().__init__()
        self.module = module.eval()
        self._given_tokenizer = tokenizer
        self.name = name or self.module.name_or_path or type(module).__name__
        self._config = self.module.config.get_text_config()
        kind = type(module).__name__
        if getattr(self._config, "is_encoder_decoder", False):
            raise ValueError(
                f"model: {self.name!r} is a {kind}, an encoder and a decoder; wanted one of the two alone, as "
                "transformers.AutoModelForCausalLM and AutoModel load"
            )
        if not _reads_tokens(module):
            raise ValueError(
                f"model: {self.name!r} is a {kind}, which reads no tokens but {module.main_input_name}; wanted a model "
                "of text. Read its activations by a hook of PyTorch: Trainer.fit takes tensors [n, width], and "
                "monosem.save_vectors keeps one vector per input, with a name for each, for every command"
            )
        unembedding = self.module.get_output_embeddings()
        self.n_ctx = _longest_context(self._config)
        self.d_vocab = int((unembedding or self.module.get_input_embeddings()).weight.shape[0])
        rows, length = _PROBE
        tokens = self._probe_tokens()[:, : min(length, self.n_ctx)].repeat(rows, 1)
        tokens[-1, -1] = (tokens[-1, -1] + 1) % self.d_vocab
        self._structure = structure.find(
            self.module,
            lambda: self._run_module(tokens),
            tokens.shape,
            self.module.get_input_embeddings(),
            unembedding,
        )
        names = self._structure.names
        self.predicts = self._structure.is_causal
        if not self.predicts:
            names.pop(BEFORE_UNEMBED, None)
            # RoBERTa counts positions that no token has; what its tokenizer gives, it reads.
            self.n_ctx = min(self.n_ctx, getattr(tokenizer, "model_max_length", self.n_ctx))
        self.n_layers = self._structure.n_layers
        self._widths = dict(self._structure.widths)
        self._widths |= {name: self._widths[str(place)] for name, place in names.items()}
        self.hook_names = [*names, *self._structure.widths]
        if not self.hook_names:
            raise ValueError(f"model: no module of {self.name!r}, a {kind}, holds one vector per token; wanted one")

    def _check_predicts(self) -> None:
        if not self.predicts:
            raise ValueError(
                f"model: {self.name!r} is a {type(self.module).__name__}, which predicts no next token; wanted a model "
                "that does. Its activations can be read and harvested, dictionaries trained on them, evaluated without "
                "losses and indexed; there are no losses, logit weights, steering or written text"
            )

    # ---------------------------------------------------------------- the model

    @property
    def device(self) -> torch.device:
        weight = self.module.get_input_embeddings().weight
        return torch.device("cpu") if weight.is_meta else weight.device  # offloaded: its tokens are moved for it

    def to(self, device: torch.device | str) -> HuggingFaceModel:
        if getattr(self.module, "hf_device_map", None) and self.device != torch.device(device):
            raise ValueError(
                f"device: got {str(device)!r}; {self.name!r} was placed by a device_map, {self.module.hf_device_map}. "
                "Leave one of the two out."
            )
        super().to(device)
        return self

    def _run_module(self, tokens: Tensor, **options: Any) -> Any:
        return self.module(input_ids=tokens, return_dict=True, **(self._no_cache | options))

    @cached_property
    def _no_cache(self) -> dict[str, bool]:
        return {"use_cache": False} if "use_cache" in inspect.signature(self.module.forward).parameters else {}

    @contextmanager
    def _hooked(self, hooks: Iterable[tuple[str, Callable[[Tensor], Tensor | None]]], shape: torch.Size) -> Iterator:
        def by_rows(hook: Callable[[Tensor], Tensor | None]) -> Callable[[Tensor], Tensor | None]:
            def at(value: Tensor) -> Tensor | None:
                seen = by_token(value, shape)
                changed = hook(value if seen is None else seen)
                return changed.reshape(value.shape) if changed is not None and value.ndim == 2 else changed

            return at

        with self._passing, ExitStack() as attached:
            for name, hook in hooks:
                attached.callback(self._place(name).attach(self.module, by_rows(hook)).remove)
            yield

    def _place(self, hook_name: str) -> Place:
        if hook_name in self._structure.names:
            return self._structure.names[hook_name]
        return Place(hook_name.removesuffix(INPUT), hook_name.endswith(INPUT))

    def _forward(self, tokens: Tensor, hooks: dict[str, Callable[[Tensor], Tensor | None]]) -> None:
        with self._hooked(hooks.items(), tokens.shape):
            self._run_module(tokens)

    def _writer(self, replace: dict[str, Replace] | None) -> Callable[[list[int]], Tensor]:
        """With the cache of keys and values, until the context slides and every position changes."""
        self._check_predicts()
        position, sliding = Position(), super()._writer(replace)
        changes = continued(replace, position)

        def forward(new: Tensor, cache: dict[str, Any]) -> Any:
            new = self._check_tokens(new)
            last = (BEFORE_UNEMBED, lambda value: value[:, -1:])  # logits of one token alone
            with self._hooked([*self._replacements(new, changes).items(), last], new.shape):
                return self._run_module(new, use_cache=True, **cache)

        cached = CachedWriter(forward, position)
        return lambda out: cached(out) if len(out) <= self.n_ctx else sliding(out)

    def _compared(self, tokens: Tensor, runs: Sequence[dict[str, Replace] | None]) -> tuple[list[Tensor], list[Tensor]]:
        self._check_predicts()
        return super()._compared(tokens, runs)

    def _check_hook(self, hook_name: str) -> None:
        try:
            super()._check_hook(hook_name)
        except ValueError as error:
            if not hook_name.startswith("blocks."):
                raise
            raise ValueError(f"{error} TransformerLens has more: load_model('lens:{self.name}').") from None

    def check_written(self, hook_name: str) -> None:
        self._check_predicts()
        if hook_name.endswith(".hook_resid_mid") and hook_name in self._structure.names:
            raise ValueError(
                f"replace: {hook_name!r} of {self.name!r} is {str(self._place(hook_name))!r}, read by the MLP alone: "
                "what is put there does not reach the residual stream; wanted a hook that is written, as "
                f"{hook_name.replace('hook_resid_mid', 'hook_resid_post')!r}"
            )

    # ---------------------------------------------------------------- logits

    def logit_directions(self, hook_name: str) -> Tensor:
        self._check_predicts()
        self._check_hook(hook_name)
        if hook_name in self._structure.names:
            return super().logit_directions(hook_name)
        by_place = {str(place): name for name, place in reversed(self._structure.names.items())}
        return super().logit_directions(by_place.get(hook_name, hook_name))

    def _unscaled(self, hidden: Tensor) -> Tensor:
        return self.module.get_output_embeddings()(hidden)

    def _end(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        kept = []
        with self._hooked([(BEFORE_UNEMBED, kept.append)], tokens.shape):
            logits = self._run_module(tokens)["logits"]
        return kept[-1], logits

    def _settings(self) -> Iterable[tuple[str, Any]]:
        return self._config.to_dict().items()

    def _norm_and_unembedding(self) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        norm, weight = self._structure.final_norm, self.module.get_output_embeddings().weight
        if norm is None:
            raise ValueError(
                f"model: {self.name!r} has no known linear path to its logits: no single module is between its last "
                "layer and its unembedding"
            )
        return self.module.get_submodule(norm) if norm else nn.Identity(), self._in_memory(weight).T

    def _mlp_out(self, layer: int) -> Tensor:
        module = self.module.get_submodule(self._structure.mlp_out[layer])
        weight = self._in_memory(module.weight)
        return weight if type(module).__name__ == "Conv1D" else weight.T  # GPT-2's own has it the other way round

    def _in_memory(self, weight: Tensor) -> Tensor:
        if weight.is_meta or not weight.is_floating_point():
            raise ValueError(
                f"model: logit weights of {self.name!r} need weights in memory as floating point, and these are "
                f"{'offloaded' if weight.is_meta else weight.dtype}; load it otherwise (device_map, dtype)"
            )
        return weight

    # ---------------------------------------------------------------- text

    @cached_property
    def tokenizer(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  # found once
        """The tokenizer. ValueError where there is none."""
        if self._given_tokenizer is not None:
            return self._given_tokenizer
        place = self.module.name_or_path
        try:
            if not place:
                raise ValueError("the model has no name_or_path")
            return _library().AutoTokenizer.from_pretrained(place)
        except Exception as error:
            raise ValueError(
                f"tokenizer: {self.name!r} came without one ({_first_line(error)}); wanted one, to read or write text: "
                "load_model(model, tokenizer=…)"
            ) from error

    @cached_property
    def bos_id(self) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]  # found once
        """BOS of the tokenizer or the configuration, or what stands there: BERT's [CLS], the end of text of Qwen."""
        tokenizer = None
        try:
            tokenizer = self.tokenizer
        except ValueError:
            if all(getattr(self._config, name, None) is None for name in ("bos_token_id", "eos_token_id")):
                raise
        for name in ("bos_token_id", "cls_token_id", "eos_token_id"):
            for of in (tokenizer, self._config):
                value = getattr(of, name, None)
                value = value[0] if isinstance(value, list) and value else value
                if isinstance(value, int) and 0 <= value < self.d_vocab:
                    return value
        raise ValueError(f"model: the tokenizer of {self.name!r} has no BOS token; set its `bos_token`")


def load_pretrained(name: ModelName, device_map: Any = None, tokenizer: Any = None) -> HuggingFaceModel:
    """A model by its name at Hugging Face, a folder of it, or a GGUF file; as it is stored, or in another dtype.

    Args:
        device_map: as of ``from_pretrained``; None: all on the CPU.
        tokenizer: instead of the one that belongs to the model.

    Raises:
        ImportError: transformers is not installed.
        NotLoaded: it could not load the model.
    """
    library = _library()
    path = Path(name.path)
    gguf = path.suffix == ".gguf"
    where = str(path.parent) if gguf else name.path
    options: dict[str, Any] = {"gguf_file": path.name} if gguf else {}
    if name.revision is not None:
        options["revision"] = name.revision
    dtype = "auto" if name.dtype is None else getattr(torch, DTYPES[name.dtype])
    placed = {} if device_map is None else {"device_map": device_map}
    try:
        decoder = gguf or _is_decoder(library.AutoConfig.from_pretrained(where, **options))
        kind = library.AutoModelForCausalLM if decoder else library.AutoModel
        module = kind.from_pretrained(where, dtype=dtype, **options, **placed)
        if tokenizer is None and _reads_tokens(module):
            tokenizer = library.AutoTokenizer.from_pretrained(where, **options)
    except Exception as error:
        found = " Load it with its own options by transformers, and give the object: load_model(model, tokenizer=…)."
        raise NotLoaded(
            f"transformers could not load {str(name)!r} ({type(error).__name__}: {_first_line(error)})."
            + ("" if isinstance(error, OSError) else found)
        ) from error
    return HuggingFaceModel(module, tokenizer, str(name))


def is_model(model: object) -> bool:
    """Whether an object is a model of ``transformers``; does not import it."""
    return any(kind.__name__ == "PreTrainedModel" for kind in type(model).__mro__)


def is_folder(folder: Path) -> bool:
    """Whether a folder holds a model as ``save_pretrained`` writes it."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and ("model_type" in config or "architectures" in config)


def _library() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError(f"a model of Hugging Face needs transformers: {EXTRA}") from error
    return transformers


def _reads_tokens(module: nn.Module) -> bool:
    """Whether a model looks its input up in a table by token: one of images or sound has another layer there."""
    weight = getattr(module.get_input_embeddings(), "weight", None)  # pyright: ignore[reportCallIssue]
    return isinstance(weight, Tensor) and weight.ndim == 2


def _is_decoder(config: Any) -> bool:
    """Whether the weights are stored with an unembedding: AutoModelForCausalLM would put a random one on an encoder."""
    kinds = getattr(config, "architectures", None) or []
    return not kinds or any(kind.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")) for kind in kinds)


def _longest_context(config: Any) -> int:
    limits = (getattr(config, name, None) for name in CONTEXTS)
    return next((limit for limit in limits if isinstance(limit, int) and limit > 0), UNLIMITED)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else "no message"
