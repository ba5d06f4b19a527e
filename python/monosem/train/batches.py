"""The stream of activations as the trainer sees it: checked batches, counted, with a position to come back to."""

from __future__ import annotations

import copy
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from monosem.data import fingerprint
from monosem.nn.config import JsonDict
from monosem.train.rng import rng_state, set_rng_state

# A batch [N, d_in]; a ``DataLoader`` gives a sequence of one, or of several that stand side by side.
Batch = Tensor | np.ndarray | Sequence[Tensor | np.ndarray]
# Batches, or all activations [n, d_in] in one array.
Activations = Tensor | np.ndarray | Iterable[Batch]


@runtime_checkable
class Positioned(Protocol):
    """A source that knows its position in the data and can return to it."""

    def state_dict(self) -> JsonDict: ...

    def load_state_dict(self, state: JsonDict) -> None: ...


@runtime_checkable
class Fingerprinted(Protocol):
    """A source that identifies its data by a flat dict for JSON."""

    def fingerprint(self) -> JsonDict: ...


def expected(widths: Sequence[int]) -> str:
    """The shape of a batch, for messages."""
    if len(widths) == 1:
        return f"[N, d_in={widths[0]}]"
    return f"[N, {sum(widths)}], widths {' + '.join(map(str, widths))} side by side, or a list of {len(widths)} tensors"


def check_batch(x: object, like: Tensor, widths: Sequence[int], number: int, movable: bool = False) -> Tensor:
    """``x`` [N, Σ widths], ready for a step, in the dtype of the weights ``like``; bf16 and fp16 widen exactly.

    An array of NumPy is used as it is, and a list or tuple of one tensor (as a ``DataLoader`` gives) as that tensor.
    Where there are several ``widths`` (``SAE.batch_widths``), a list of as many tensors is put side by side, and
    [N, L, d] is taken as [N, L·d].

    ``movable``: a batch on the CPU is checked there and then copied to the weights' device, so that the check does not
    synchronise with a GPU. A batch that is on a GPU already synchronises.

    Raises:
        TypeError: not a tensor, or a dtype that does not fit the weights.
        ValueError: wrong shape or device, no row, or a NaN or Inf. The message names the batch, counted from 0.
    """
    x = side_by_side(x, widths, number)
    if not isinstance(x, Tensor):
        kind = f"{type(x).__name__} of {len(x)}" if isinstance(x, (list, tuple)) and len(x) > 1 else type(x).__name__
        raise TypeError(f"batch {number}: got {kind}; wanted a tensor {expected(widths)}")
    if x.ndim != 2 or x.shape[1] != sum(widths):
        hint = "; flatten leading dimensions with x.flatten(0, -2)" if x.ndim > 2 else ""
        raise ValueError(f"batch {number}: got shape {list(x.shape)}; wanted {expected(widths)}{hint}")
    if not len(x):
        raise ValueError(f"batch {number}: got no row; wanted {expected(widths)} with N ≥ 1")
    if x.device != like.device and not (movable and x.device.type == "cpu"):
        raise ValueError(f"batch {number}: got device {x.device}; wanted {like.device}, where the weights are")
    if x.dtype not in (like.dtype, torch.bfloat16, torch.float16):
        raise TypeError(
            f"batch {number}: got {x.dtype}; wanted {like.dtype}, or bfloat16 or float16 to be widened. Convert it "
            f"with x.to({like.dtype})."
        )
    x = x.detach()
    if x.device == like.device:
        x = x.to(like.dtype)
    # One pass: a NaN or Inf anywhere makes the sum so. A sum of large finite numbers may overflow, hence the recount.
    if not torch.isfinite(x.sum()):
        bad = ~torch.isfinite(x)
        if bad.any():
            row, column = bad.nonzero()[0].tolist()
            raise ValueError(
                f"batch {number}: got {int(torch.isnan(x).sum())} NaN and {int(torch.isinf(x).sum())} Inf, the first "
                f"at row {row}, column {column}; wanted finite activations. No weight was changed by this batch. Find "
                "out where they come from (half-precision overflow in the model is common), or leave that input out."
            )
    if x.device != like.device:  # from pinned memory: a copy from other memory synchronises
        x = x.pin_memory().to(like.device, non_blocking=True).to(like.dtype)
    return x


def side_by_side(x: object, widths: Sequence[int], number: int) -> object:
    """The tensors of a batch as one; anything that is no such list as it is."""
    several = len(widths) > 1
    if several and isinstance(x, (list, tuple)) and len(x) == len(widths):
        parts = [as_tensor(part) for part in x]
        if not all(isinstance(part, Tensor) for part in parts):
            return x
        tensors = cast("list[Tensor]", parts)
        shapes, n = [list(t.shape) for t in tensors], len(tensors[0]) if tensors[0].ndim else 0
        if shapes != [[n, width] for width in widths]:
            raise ValueError(f"batch {number}: got shapes {shapes}; wanted {[['N', width] for width in widths]}")
        if len({(t.dtype, t.device) for t in tensors}) > 1:
            kinds = ", ".join(f"{t.dtype} on {t.device}" for t in tensors)
            raise ValueError(f"batch {number}: got {kinds}; wanted the same for all {len(widths)} tensors")
        return torch.cat(tensors, 1)
    x = as_tensor(x)
    if several and isinstance(x, Tensor) and x.ndim == 3 and list(x.shape[1:]) == [len(widths), widths[0]]:
        return x.flatten(1) if len(set(widths)) == 1 else x
    return x


def as_tensor(x: object) -> object:
    """A NumPy array as a tensor of the same memory, the one tensor of a list of one; anything else as it is."""
    if isinstance(x, (list, tuple)) and len(x) == 1 and isinstance(x[0], (Tensor, np.ndarray)):
        x = x[0]
    if isinstance(x, np.ndarray) and x.dtype.kind in "fiu" and x.dtype.isnative:
        with warnings.catch_warnings():  # of read-only arrays: nothing here writes
            warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
            return torch.from_numpy(np.ascontiguousarray(x))
    return x


class TensorBatches:
    """Endless shuffled batches of a tensor [n, D] in memory: each epoch is a new permutation."""

    def __init__(self, x: Tensor, batch_size: int, seed: int) -> None:
        self._x, self._batch_size, self._seed = x, min(batch_size, len(x)), seed
        self._epoch, self._next = 0, 0

    def fingerprint(self) -> JsonDict:
        return {"kind": "tensor", **fingerprint.of_array(self._x)}

    def __iter__(self) -> Iterator[Tensor]:
        while len(self._x):
            generator = torch.Generator().manual_seed((self._seed * 1_000_003 + self._epoch) % 2**63)
            order = torch.randperm(len(self._x), generator=generator, device="cpu")
            while self._next + self._batch_size <= len(self._x):
                rows = order[self._next : self._next + self._batch_size]
                self._next += self._batch_size
                yield self._x[rows.to(self._x.device)]
            self._epoch, self._next = self._epoch + 1, 0

    def state_dict(self) -> JsonDict:
        return {"epoch": self._epoch, "next": self._next}

    def load_state_dict(self, state: JsonDict) -> None:
        self._epoch, self._next = state["epoch"], state["next"]


class Batches:
    """One walk over a source of activations.

    ``source`` is any iterable of batches [N, Σ widths] (see ``check_batch``), or a tensor [n, Σ widths] (see
    ``TensorBatches``). A source with ``state_dict`` and ``load_state_dict`` returns exactly to its position; any other
    one is read again from its beginning, with the same random numbers, skipping the batches already used. Batches on
    the CPU are moved to the weights' device.

    A position is saved with an identification of the data: the source's own ``fingerprint()`` (a flat dict for JSON),
    or, where there is only an iterable, a checksum of each batch's first and last row.

    Attributes:
        start: the random numbers before the first batch of a source without state (``rng_state``), else None.
        normaliser: applied to each batch that is handed out; None: they are handed out as they are.
    """

    def __init__(
        self, activations: Activations, like: Tensor, widths: Sequence[int], batch_size: int, seed: int
    ) -> None:
        d_in = sum(widths)
        source = as_tensor(activations) if isinstance(activations, np.ndarray) else activations
        if isinstance(source, Tensor):
            if source.ndim != 2 or source.shape[1] != d_in or not len(source):
                raise ValueError(f"activations: got a tensor {list(source.shape)}; wanted [n ≥ 1, d_in={d_in}]")
            source = TensorBatches(source, batch_size, seed)
        if not isinstance(source, Iterable):
            raise TypeError(f"activations: got {type(source).__name__}; wanted an iterable of batches [N, d_in={d_in}]")
        width = getattr(source, "d_in", d_in)
        if width != d_in:
            raise ValueError(f"activations: got width {width}; wanted d_in={d_in} of the autoencoder")
        parts = tuple(getattr(source, "widths", widths))
        if len(parts) > 1 and parts != tuple(widths):
            got, wanted = (" + ".join(map(str, some)) for some in (parts, widths))
            raise ValueError(
                f"activations: got widths {got} side by side; wanted {wanted}, as the autoencoder has them"
            )
        self.source: Iterable[Batch] = source
        self.number = 0
        self._like, self._widths = like, tuple(widths)
        self._iterator: Iterator[Batch] | None = None
        self.start: tuple[dict[str, Tensor], JsonDict] | None = None
        self._crc = 0
        self._data: JsonDict | None = None
        self.normaliser: Callable[[Tensor], Tensor] | None = None
        self._ahead: deque[tuple[Tensor, JsonDict]] = (
            deque()
        )  # batches that were read ahead, and the states behind them
        self._handed: JsonDict | None = None  # while there are some: the state behind the last that was handed out

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Tensor:
        """The next batch, checked. Raises StopIteration at the end, ValueError if there was no batch at all."""
        if self._ahead:
            x, self._handed = self._ahead.popleft()
        else:
            x, self._handed = self._read(), None
        return x if self.normaliser is None else self.normaliser(x)

    def look_ahead(self, tokens: int) -> list[Tensor]:
        """The next batches, of so many tokens together, without handing them out: they are those that come next.

        Fewer where the source ends. A position that is saved meanwhile is that of the batches handed out.
        """
        if self._handed is None:
            self._handed = copy.deepcopy(self._live_state())
        while sum(len(x) for x, _ in self._ahead) < tokens:
            try:
                x = self._read()
            except StopIteration:
                break
            self._ahead.append((x.clone(), copy.deepcopy(self._live_state())))  # a source may write there again
        return [x for x, _ in self._ahead]

    def _read(self) -> Tensor:
        iterator = self._begin() if self._iterator is None else self._iterator
        try:
            x = next(iterator)
        except StopIteration:
            if self.number == 0:
                raise ValueError(
                    f"activations: got an empty stream; wanted at least one batch {expected(self._widths)}. "
                    "A generator that was read before is empty: make a new one."
                ) from None
            raise
        x = side_by_side(x, self._widths, self.number)
        checked = check_batch(x, self._like, self._widths, self.number, movable=True)
        self.number += 1
        if not self.exact:
            self._crc = _followed_by(self._crc, x)
        return checked

    def _begin(self) -> Iterator[Batch]:
        if not self.exact and self.start is None:
            self.start = rng_state()
        self._iterator = iter(self.source)
        return self._iterator

    @property
    def exact(self) -> bool:
        """Whether the source knows its position."""
        return isinstance(self.source, Positioned)

    def fingerprint(self) -> JsonDict:
        """An identification of the data, for JSON; computed once, for which a tensor is read."""
        if self._data is None:
            if isinstance(self.source, Fingerprinted):
                self._data = self.source.fingerprint()
            else:
                names = ("d_in", "n_tokens", "hook_name", "model_name")
                attributes = {name: getattr(self.source, name, None) for name in names}
                known = {name: value for name, value in attributes.items() if isinstance(value, (int, str))}
                self._data = {"kind": "batches", **known}
        return self._data

    def state_dict(self) -> JsonDict:
        """The position behind the last batch that was handed out."""
        return self._live_state() if self._handed is None else self._handed

    def _live_state(self) -> JsonDict:
        source = self.source.state_dict() if isinstance(self.source, Positioned) else None
        return {"number": self.number, "source": source, "data": self.fingerprint(), "crc32": self._crc}

    def load_state_dict(self, state: JsonDict, where: str = "the folder") -> None:
        """Go to the position of ``state``, which ``where`` holds; the caller sets ``start`` before, if it was saved.

        Raises:
            ValueError: the source saved had a position and this one has none, or the reverse; it has other data, or
                ends before that position.
        """
        self._ahead.clear()
        self._handed = None
        if (state["source"] is not None) != self.exact:
            had, has = ("a", "no") if state["source"] is not None else ("no", "a")
            raise ValueError(
                f"activations: the run was saved with {had} source state, this source has {has} state_dict; "
                f"wanted the same kind of source as before ({fingerprint.words(state.get('data', {}))})"
            )
        if "data" not in state:
            warnings.warn(
                f"activations: {where} was written before runs knew their data; whether these are the same data "
                "cannot be checked",
                RuntimeWarning,
                stacklevel=4,
            )
        elif names := fingerprint.different(state["data"], self.fingerprint()):
            raise _other_data(where, state["data"], self.fingerprint(), names)
        if isinstance(self.source, Positioned):
            self.source.load_state_dict(state["source"])
            self.number = state["number"]
            return
        self._skip(state, where)

    def _skip(self, state: JsonDict, where: str) -> None:
        if self.start is not None:
            set_rng_state(*self.start)
        iterator = self._begin()
        for skipped in range(state["number"]):
            if (x := next(iterator, None)) is None:
                raise ValueError(
                    f"activations: ended after {skipped} batches, while skipping the {state['number']} that the run "
                    "has used already; wanted the same stream from its beginning"
                )
            self._crc = _followed_by(self._crc, side_by_side(x, self._widths, skipped))
        self.number = state["number"]
        if self._crc != state.get("crc32", self._crc):
            raise ValueError(
                f"activations: {where} was trained on other data: the first {self.number} batches of this iterable are "
                f"not the {self.number} that the run has used; wanted the same batches. {_ADVICE}"
            )


_ADVICE = (
    "Give those again, choose another folder, or take the weights along into a new run: Trainer(..., start=RUN), "
    "`monosem train --from RUN`."
)


def _other_data(where: str, saved: JsonDict, mine: JsonDict, names: list[str]) -> ValueError:
    differing = "; ".join(f"{name}: {saved[name]!r} there, {mine[name]!r} here" for name in names)
    return ValueError(
        f"activations: {where} was trained on other data ({differing}). There: {fingerprint.words(saved)}. Here: "
        f"{fingerprint.words(mine)}. Wanted the same data. {_ADVICE}"
    )


def _followed_by(crc: int, x: object) -> int:
    """The checksum of a stream after one more batch: of its length, its first and its last row."""
    x = as_tensor(x)
    if not isinstance(x, Tensor) or x.ndim == 0 or not len(x):
        return zlib.crc32(repr(type(x)).encode(), crc)
    ends = x.detach()[[0, -1]].cpu().contiguous().view(torch.uint8).numpy()
    return zlib.crc32(ends.tobytes(), zlib.crc32(f"{list(x.shape)} {x.dtype}".encode(), crc))
