"""The interface to a language model of any library: hooks, losses, logit directions, text."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property

import torch
from torch import Tensor

from monosem.data.nearest import nearest
from monosem.data.vocabulary import Vocabulary, readable
from monosem.ops.precision import as_given

Replace = Callable[[Tensor], Tensor]

BEFORE_UNEMBED = "unembed.hook_in"  # the last hook of every kind of model: what the unembedding reads

# One logit row is d_vocab floats: this many elements of logits exist at a time (64 MiB in fp32).
_LOGITS_AT_ONCE = 1 << 24
_ON_CPU = 1 << 22  # the allocator gives larger blocks back to the system, which fills them with zeros each time
# On a CPU no more than its caches hold, unless that is so few rows that the product waits for the unembedding instead.
_IN_CACHE, _ROWS_ON_CPU = 1 << 20, 128
_NOT_BY_POSITION = ("hook_pattern", "hook_attn_scores", "hook_rot_k", "hook_rot_q")


def _rows_at_once(d_vocab: int, on_cpu: bool) -> int:
    """Tokens whose logits exist at one time."""
    if not on_cpu:
        return max(1, _LOGITS_AT_ONCE // d_vocab)
    most = min(_LOGITS_AT_ONCE, _ON_CPU) // d_vocab
    return max(1, min(most, max(_ROWS_ON_CPU, _IN_CACHE // d_vocab)))


class _Reached(Exception):
    """Ends a forward pass at the last of the hooks that are read."""

    def __init__(self) -> None:
        super().__init__("reached the hook")


class _OneAtATime:
    """A lock on the forward passes of a model, whose hooks act on every pass, of any thread. A copy has its own."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exc: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()


class Model(ABC):
    """A language model behind hook names. Made by :func:`monosem.data.models.load_model`.

    Attributes:
        name: what the user called it.
        n_ctx: longest context, in tokens, BOS included.
        d_vocab: number of logits.
        hook_names: every hook point, named as TransformerLens names them; a model of Hugging Face has its modules' own
            names too.
    """

    name: str
    n_ctx: int
    d_vocab: int
    hook_names: list[str]

    def __init__(self) -> None:
        self._widths: dict[str, int] = {}
        self._passing = _OneAtATime()

    # ---------------------------------------------------------------- what each kind of model brings

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the weights lie."""

    @property
    @abstractmethod
    def bos_id(self) -> int:
        """The token that begins every context."""

    @abstractmethod
    def _forward(self, tokens: Tensor, hooks: dict[str, Callable[[Tensor], Tensor | None]]) -> None:
        """Run the model with hooks, each of which may return a replacement."""

    @abstractmethod
    def _unembed(self, hidden: Tensor) -> Tensor:
        """[n, d_model] at the input of the unembedding → logits [n, d_vocab]."""

    @abstractmethod
    def _final_path(self) -> tuple[Tensor | None, bool, Tensor]:
        """(gain of the final norm or None, whether that norm removes the mean, W_U [d_model, d_vocab])."""

    @abstractmethod
    def _mlp_out(self, layer: int) -> Tensor:
        """W_out [d_mlp, d_model] of one layer."""

    def _direct(self, hook_name: str, path: Tensor) -> Tensor:
        """``path`` [d, d_model] from a hook to the residual stream as this model really adds it."""
        return path

    def check_written(self, hook_name: str) -> None:  # noqa: B027, nothing to refuse where every hook is written
        """Raise ValueError where what is put at a hook does not take the place of what stands there."""

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many texts, none with BOS. ValueError: one with a lone surrogate, see ``data/unicode.py``."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; bytes that make no whole character become U+FFFD."""

    @abstractmethod
    def _vocabulary(self) -> Vocabulary:
        """The vocabulary, with what is known of the tokenizer."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Model:
        """Move the weights; returns the model itself."""

    # ---------------------------------------------------------------- activations and losses

    @torch.no_grad()
    def activations(self, tokens: Tensor, hook_name: str) -> Tensor:
        """Activations at a hook: tokens [B, T] → [B, T, d] in the model's dtype; the forward pass stops there.

        Attention hooks with a head axis, [B, T, heads, d_head], are laid flat. A model of float64 gives
        float32.

        Raises:
            ValueError: unknown hook (names the nearest), a hook without one vector per token, or bad tokens.
        """
        return self.activations_at(tokens, [hook_name])[0]

    @torch.no_grad()
    def activations_at(self, tokens: Tensor, hook_names: Sequence[str]) -> list[Tensor]:
        """:meth:`activations` at each of several hooks, in one forward pass, which stops at the last of them."""
        for hook_name in hook_names:
            self._check_hook(hook_name)
        tokens = self._check_tokens(tokens)
        values = self._read(tokens, {}, hook_names)
        parts = [self._by_token(values[name], tokens.shape, name) for name in hook_names]
        return [part if part.element_size() <= 4 else part.float() for part in parts]

    @torch.no_grad()
    def token_losses(self, tokens: Tensor, replace: dict[str, Replace] | None = None) -> Tensor:
        """Cross-entropy of each predicted token, in nats: tokens [B, T] → [B, T − 1].

        Entry t is the loss of token t + 1 given tokens 0..t. Logits exist for a few rows at a time, so memory does not
        grow with B · T · d_vocab.

        Args:
            replace: functions from the activations at a hook, fp32 [B, T, d], to what shall stand there instead.
        """
        return self._compared(tokens, [replace])[0][0]

    @torch.no_grad()
    def compared_losses(
        self, tokens: Tensor, replacements: Sequence[dict[str, Replace]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """:meth:`token_losses` untouched and with each of the replacements, and how far those move the predictions.

        Returns:
            Losses [B, T − 1], the untouched ones first; and per replacement the divergence KL(untouched ‖ replaced) of
            the distributions over the vocabulary, in nats, [B, T − 1].
        """
        return self._compared(tokens, [None, *replacements])

    def _compared(self, tokens: Tensor, runs: Sequence[dict[str, Replace] | None]) -> tuple[list[Tensor], list[Tensor]]:
        """Losses of each run, and the divergence of each from the first; logits of a few rows exist at a time."""
        tokens = self._check_tokens(tokens)
        hidden = [self._run(tokens, self._replacements(tokens, run), BEFORE_UNEMBED) for run in runs]
        device = hidden[0].device
        target = tokens[:, 1:].reshape(-1, 1).to(device)
        hidden = [states[:, :-1].reshape(len(target), -1) for states in hidden]
        losses = [torch.empty(len(target), device=device, dtype=torch.float32) for _ in runs]
        divergences = [torch.empty_like(each) for each in losses[1:]]
        rows = _rows_at_once(self.d_vocab, device.type == "cpu")
        for start in range(0, len(target), rows):
            part = slice(start, start + rows)
            untouched = self._log_probabilities(hidden[0][part])
            losses[0][part] = -untouched.gather(1, target[part]).squeeze(1)
            if not divergences:
                continue
            probabilities = untouched.exp()
            for states, loss, divergence in zip(hidden[1:], losses[1:], divergences, strict=True):
                moved = self._log_probabilities(states[part])
                loss[part] = -moved.gather(1, target[part]).squeeze(1)
                divergence[part] = torch.sub(untouched, moved, out=moved).mul_(probabilities).sum(-1)
        shape = (tokens.shape[0], tokens.shape[1] - 1)
        return [each.view(shape) for each in losses], [each.view(shape) for each in divergences]

    def _log_probabilities(self, hidden: Tensor) -> Tensor:
        """Of every next token, fp32 [n, d_vocab]. On a CPU logsumexp takes twice as long."""
        return self._unembed(hidden).float().log_softmax(-1)

    @torch.no_grad()
    def generate(
        self,
        tokens: Sequence[int],
        length: int,
        temperature: float = 0.8,
        seed: int = 0,
        replace: dict[str, Replace] | None = None,
    ) -> list[int]:
        """``tokens`` and ``length`` sampled ones after them. When the context is full it slides, its BOS staying put.

        Args:
            tokens: the prompt; a BOS is put before it unless it begins with one.
            temperature: 0 takes the likeliest token every time.
            replace: as in :meth:`token_losses`; each function sees [1, T, d].
        """
        if length < 0 or temperature < 0:
            raise ValueError(f"length, temperature: got {length}, {temperature}; wanted neither below 0")
        generator = torch.Generator().manual_seed(seed)
        out = list(tokens)
        out = out if out[:1] == [self.bos_id] else [self.bos_id, *out]
        next_logits = self._writer(replace)
        for _ in range(length):
            logits = next_logits(out).float().cpu()
            if temperature:
                out.append(int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)))
            else:
                out.append(int(logits.argmax()))
        return out

    def width(self, hook_name: str) -> int:
        """d of :meth:`activations` at a hook."""
        if hook_name not in self._widths:
            self._widths[hook_name] = self.activations(
                torch.zeros(1, min(3, self.n_ctx), dtype=torch.float32, device="cpu").long(), hook_name
            ).shape[-1]
        return self._widths[hook_name]

    @torch.no_grad()
    @as_given
    def logit_directions(self, hook_name: str) -> Tensor:
        """The direct path from a hook to the logits, fp32 [d, d_vocab]: ``direction @ this`` is its logit weights.

        *Towards Monosemanticity* §3.3: through W_out of the layer (only from ``mlp.hook_post``), the mean removal and
        the gain of the final LayerNorm (not its scale, which depends on the token), and W_U. The median over the
        vocabulary is not subtracted here.

        Raises:
            ValueError: a hook from which no linear path leads to the residual stream, or a final norm that is neither
                LayerNorm nor RMS norm.
        """
        self._check_hook(hook_name)
        gain, centred, unembedding = self._final_path()
        if hook_name in (BEFORE_UNEMBED, "ln_final.hook_out"):
            return unembedding.to(torch.float32, copy=True)  # not the weights themselves
        if hook_name.endswith(("mlp.hook_post", "mlp.out.hook_in")):
            path = self._mlp_out(int(hook_name.split(".")[1])).float()
        elif hook_name.endswith(
            ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_mlp_out", "hook_attn_out")
        ):
            path = torch.eye(len(unembedding), device=unembedding.device, dtype=torch.float32)
        else:
            raise ValueError(
                f"hook_name: {hook_name!r} has no linear path to the logits; wanted the residual stream, an output "
                f"that is added to it, mlp.hook_post or {BEFORE_UNEMBED}"
            )
        path = self._direct(hook_name, path)
        path = path - path.mean(-1, keepdim=True) if centred else path
        path = path if gain is None else path * gain.float()
        return path @ unembedding.float()

    # ---------------------------------------------------------------- text

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without BOS."""
        return self.encode_batch([text])[0]

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """How this model's tokenizer spells text."""
        return self._vocabulary()

    def token_str(self, token: int) -> str:
        """A token for display: bytes that make no whole character are shown as ``⟨D8⟩``."""
        if not 0 <= token < self.d_vocab:
            raise ValueError(f"token: got {token}; wanted 0 ≤ token < {self.d_vocab}")
        return readable(self.token_bytes(token))

    def token_bytes(self, token: int) -> bytes:
        """The bytes of the text that a token stands for; they may cut through a character."""
        return self.vocabulary.bytes_of(token)

    def text_within(self, ids: Sequence[int]) -> str:
        """The text of tokens from the middle of a text, a blank at their beginning kept; see :meth:`decode`."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    # ---------------------------------------------------------------- inner workings

    def _writer(self, replace: dict[str, Replace] | None) -> Callable[[list[int]], Tensor]:
        """A function from all tokens of a text so far to the logits of the next one, [d_vocab]; called after each."""

        def next_logits(out: list[int]) -> Tensor:
            window = self._check_tokens(
                torch.tensor([[out[0], *out[max(1, len(out) + 1 - self.n_ctx) :]]], dtype=torch.int64, device="cpu")
            )
            hidden = self._run(window, self._replacements(window, replace), BEFORE_UNEMBED)
            return self._unembed(hidden[0, -1:])[0]

        return next_logits

    def _run(self, tokens: Tensor, replace: dict[str, Replace], stop_at: str) -> Tensor:
        return self._read(tokens, replace, [stop_at])[stop_at]

    def _read(self, tokens: Tensor, replace: dict[str, Replace], hook_names: Sequence[str]) -> dict[str, Tensor]:
        """What stands at these hooks; the forward pass ends once all are read."""
        unused, unread, values = set(replace), set(hook_names), {}

        def hook(name: str) -> Callable[[Tensor], Tensor | None]:
            def at(value: Tensor) -> Tensor | None:
                unused.discard(name)
                changed = replace[name](value) if name in replace else None
                if name in unread:
                    unread.discard(name)
                    values[name] = value if changed is None else changed
                    if not unread:
                        raise _Reached
                    values[name] = values[name].clone()  # what follows in the pass may change it in place
                return changed

            return at

        with self._passing, suppress(_Reached):
            self._forward(tokens, {name: hook(name) for name in (*replace, *hook_names)})
        if not unused and not unread:
            return values
        missed = ", ".join(map(repr, sorted(unused or unread)))
        raise ValueError(
            f"hook_name: the forward pass of {self.name!r} does not reach {missed}; wanted hooks that it "
            "reaches. Choose another hook"
        )

    def _replacements(self, tokens: Tensor, replace: dict[str, Replace] | None) -> dict[str, Replace]:
        def wrap(name: str, change: Replace) -> Replace:
            def at(value: Tensor) -> Tensor:
                flat = self._by_token(value, tokens.shape, name).float()
                changed = change(flat)
                if changed.shape != flat.shape:
                    raise ValueError(
                        f"replace[{name!r}]: got a tensor of shape {tuple(changed.shape)}; wanted {tuple(flat.shape)}"
                    )
                return changed.reshape(value.shape).to(value)

            return at

        for name in replace or {}:
            self._check_hook(name)
            self.check_written(name)
        return {name: wrap(name, change) for name, change in (replace or {}).items()}

    def _by_token(self, value: Tensor, shape: torch.Size, hook_name: str) -> Tensor:
        if hook_name.endswith(_NOT_BY_POSITION) or value.ndim < 3 or value.shape[:2] != shape:
            raise ValueError(
                f"hook_name: {hook_name!r} holds {list(value.shape)} for tokens {list(shape)}; "
                "wanted a hook with one vector for each token"
            )
        return value.flatten(2)

    def _check_hook(self, hook_name: str) -> None:
        if hook_name not in self.hook_names:
            near = nearest(hook_name, self.hook_names) or self.hook_names[:3]
            raise ValueError(
                f"hook_name: {self.name!r} has no hook {hook_name!r}; nearest: {', '.join(near)}. "
                "All of them: `model.hook_names`, or `monosem hooks --model NAME`."
            )

    def _check_tokens(self, tokens: Tensor) -> Tensor:
        if tokens.ndim != 2 or tokens.is_floating_point() or not 1 <= tokens.shape[1] <= self.n_ctx:
            raise ValueError(
                f"tokens: got {tokens.dtype} of shape {tuple(tokens.shape)}; "
                f"wanted integers [contexts, at most {self.n_ctx} tokens]"
            )
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.d_vocab:
            raise ValueError(
                f"tokens: got values from {int(tokens.min())} to {int(tokens.max())}; "
                f"wanted 0 ≤ token < {self.d_vocab}. Was the text encoded with another tokenizer?"
            )
        return tokens.to(self.device, torch.long)
