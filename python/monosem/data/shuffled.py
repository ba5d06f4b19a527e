"""Shuffled batches with an exact position: the common base of the stream from a model and the store on disk."""

from __future__ import annotations

import math
from collections.abc import Iterator
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monosem.data import fingerprint
from monosem.data.filled import Filled, FilledSource
from monosem.data.norm_limit import NormLimit
from monosem.distributed.peers import share_of
from monosem.ops.memory import check_memory

# Settings that decide the order of the tokens and not which they are.
_ORDER = ("seed", "batch_size", "windows", "forward_contexts")
# Settings that older positions lack; such a position may be resumed.
_LATER = ("weights", "content")


Window = tuple[int, int]  # the epoch, and the number in it
Order = tuple[Tensor, np.ndarray | None]  # the tokens of a window in their order; their places in it (None: 0, 1, …)


class ShuffledSource(FilledSource[Window, Order]):
    """Batches [N, d_in] in which every token occurs exactly once per epoch, in an order that only the seed decides.

    Tokens come in *units* (the contexts of a stream, the blocks of a store). An epoch is a permutation of the units,
    cut into windows of nearly equal size; a window is brought into memory and its tokens are permuted. Windows after
    windows, epochs after epochs are thus one endless sequence of tokens, and the number of tokens handed out says
    where the iteration stands: any position can be reached by filling a single window.

    A batch crosses windows and epochs; only the last batch of a pass of ``epochs`` may be short. Iterating again
    after a pass was exhausted makes the next pass, in another order.

    A subclass calls ``_arrange`` once and implements ``_fill``, which calls ``filled(tokens)`` after each part.

    With a limit on the norm, tokens beyond it are in no batch: a batch goes on with those after them, and
    ``left_out`` counts them. They keep their place in the sequence, so that a position means the same.
    """

    n_tokens: int  # in one epoch, those beyond the limit too
    _planned: tuple[int, np.ndarray, np.ndarray] | None = None  # epoch, order of the units, window ends
    _share: tuple[int, int] | None = None  # of each batch that is read; see ``DividedSource``

    def _arrange(
        self,
        *,
        d_in: int,
        lengths: np.ndarray,
        window_tokens: int,
        batch_size: int,
        seed: int,
        epochs: int | None,
        stored: torch.dtype,
        dtype: torch.dtype,
        device: torch.device | str,
        buffer: str,
        settings: dict[str, Any],
        windows_follow: bool = False,
        limit: NormLimit | None = None,
        prefetch: bool | None = None,
    ) -> None:
        """Set the order of a source.

        Args:
            lengths: tokens of each unit.
            window_tokens: tokens that are in memory at one time (at least one unit).
            stored: type of the window in memory; batches are of ``dtype``.
            buffer: name of the option that sets ``window_tokens``, for messages.
            settings: other values that must be equal for a saved position to mean the same tokens.
            windows_follow: ``window_tokens`` is a default: a loaded position sets its own number of windows.
            limit: on the norm of the activations, one median for each of ``self.widths``.
            prefetch: see ``FilledSource``.
        """
        for name, value, minimum in (("batch_size", batch_size, 1), ("seed", seed, 0), ("epochs", epochs, 1)):
            if not (value is None and name == "epochs") and (not isinstance(value, Integral) or value < minimum):
                raise ValueError(f"{name}: got {value!r}; wanted an integer ≥ {minimum}")
        if not dtype.is_floating_point:
            raise ValueError(f"dtype: got {dtype}; wanted a floating-point type, for example torch.float32")
        self.d_in, self.batch_size, self.seed = d_in, int(batch_size), int(seed)
        self.epochs = None if epochs is None else int(epochs)
        self.n_tokens = int(lengths.sum())
        self._lengths, self._dtype = lengths, dtype
        self._settings = {"seed": self.seed, "batch_size": self.batch_size, "windows": 0} | settings
        self._set_limit(limit)
        self._set_memory(stored, device, buffer, prefetch)
        self._windows_follow = windows_follow
        self._cut(min(len(lengths), -(-self.n_tokens // max(1, window_tokens))))
        self._position = self._passes = 0

    def _set_limit(self, limit: NormLimit | None) -> None:
        self.norm_limit = limit
        self._settings.pop("skip_norm", None)  # of the harvest
        if limit is not None:
            self._settings["skip_norm"] = limit.to_json()

    def _cut(self, count: int) -> None:
        """Cut every epoch into ``count`` windows."""
        if self._buffer.device.type == "cpu":
            window_size = -(-len(self._lengths) // count) * int(self._lengths.max())
            needed = window_size * self.d_in * self._buffer.element_size()
            check_memory(needed, f"{window_size:,} activations of width {self.d_in:,}", self._option)
        self._bounds = np.arange(count + 1) * len(self._lengths) // count
        self._settings["windows"] = count
        self._planned, self._loaded = None, None

    def fingerprint(self) -> dict[str, Any]:
        """The identity of these activations, independent of their order."""
        settings = {name: value for name, value in self._settings.items() if name not in _ORDER}
        if self.norm_limit is not None:  # the medians are measured: a saved position brings its own
            settings["skip_norm"] = self.norm_limit.multiple
        return {"kind": f"activations ({type(self).__name__})", **settings}

    def __iter__(self) -> Iterator[Tensor]:
        while (left := self._left()) > 0:
            batch, passed = self._take(self.batch_size, left)
            self._position += passed
            self.left_out += passed - len(batch)
            if len(batch):  # else the rest of the pass is beyond the limit
                yield batch
        self._passes += 1

    def _left(self) -> float:
        """Tokens to come in this pass."""
        end = math.inf if self.epochs is None else (self._passes + 1) * self.epochs * self.n_tokens
        return end - self._position

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch handed out, and the settings that give it a meaning. JSON-able."""
        left_out = {} if self.norm_limit is None else {"left_out": self.left_out}
        return {"position": self._position, "passes": self._passes, "settings": self._settings} | left_out

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at a saved position: the following batches are bitwise those of an uninterrupted iteration.

        Raises:
            ValueError: the position was saved by a source with other settings; names what differs.
        """
        try:
            position, passes, saved = int(state["position"]), int(state["passes"]), dict(state["settings"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"state: got {state!r:.200}, without {error}; wanted the result of {type(self).__name__}.state_dict()"
            ) from None
        follow = self._windows_follow and isinstance(saved.get("windows"), int)
        count = min(max(1, saved["windows"]), len(self._lengths)) if follow else self._settings["windows"]
        mine = self._settings | {"windows": count}
        limit = self._limit_of(saved)
        if limit is not None:
            mine["skip_norm"] = limit.to_json()
        mine = {name: value for name, value in mine.items() if name in saved or name not in _LATER}
        for name in ("model", "weights"):  # the same weights under another name, or weights that cannot be compared
            if name in mine and name not in fingerprint.different(saved, mine):
                mine[name] = saved.get(name)
        different = differences(saved, mine)
        if different:
            raise ValueError(
                f"state: the saved position belongs to other activations ({different}); wanted the settings of the "
                "run that saved it. Use those, or begin without the saved position."
            )
        self.stop_prefetch()
        if limit != self.norm_limit:
            self._set_limit(limit)
            self._loaded = None
        if count != self._settings["windows"]:
            self._cut(count)
        self._position, self._passes, self.left_out = position, passes, int(state.get("left_out", 0))

    def _limit_of(self, saved: dict[str, Any]) -> NormLimit | None:
        """The limit of a saved position, where it is this one measured again: rounding may differ by the threads."""
        if self.norm_limit is None or not isinstance(there := saved.get("skip_norm"), dict):
            return self.norm_limit
        of_saved = NormLimit.from_json(there)
        return of_saved if of_saved.is_about(self.norm_limit) else self.norm_limit

    def _take(self, count: int, left: float) -> tuple[Tensor, int]:
        """Up to ``count`` activations, fewer only at the end of a pass, and how many tokens of the sequence that took.

        Args:
            left: tokens to come in this pass.
        """
        parts: list[Tensor] = []
        missing, passed = count, 0
        rounds = 2 if self._position % self.n_tokens else 1  # so many epochs hold every token at least once
        while missing and passed < left:
            order, places, offset, end = self._window_at(self._position + passed)
            end = int(min(end, offset + left - passed))
            if places is None:
                chosen = order[offset : min(end, offset + missing)]
                passed += len(chosen)
            else:
                first, last = np.searchsorted(places, (offset, end)).tolist()
                chosen = order[first : min(last, first + missing)]
                used_up = len(chosen) < missing or first + missing == last
                passed += (end if used_up else int(places[first + missing - 1]) + 1) - offset
            missing -= len(chosen)
            parts.append(self._rows(chosen))
            if missing == count and passed >= rounds * self.n_tokens:
                raise ValueError(
                    f"skip_norm: every one of {self.n_tokens:,} tokens has {self.norm_limit}; wanted a limit that "
                    "leaves tokens to train on. Give another multiple."
                )
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).to(self._dtype), passed

    def _rows(self, chosen: Tensor) -> Tensor:
        """Rows of the buffer; −1 stands for one that was not read."""
        if self._share is None or not (chosen < 0).any():
            return self._buffer.index_select(0, chosen)
        rows = self._buffer.new_zeros(len(chosen), self.d_in)
        there = chosen >= 0
        rows[there] = self._buffer[chosen[there]]
        return rows

    def _window_at(self, position: int) -> tuple[Tensor, np.ndarray | None, int, int]:
        """Bring the window of this token into memory.

        Returns:
            The order of its tokens in the buffer, without those beyond the limit; their places in the window (None: 0,
            1, …), the place of this token, and the number of places.
        """
        epoch, window, begin, end = self._place(position)
        order, places = self._bring((epoch, window)) or (None, None)
        assert order is not None, "an epoch follows every other"
        return order, places, position - begin, end - begin

    def _place(self, position: int) -> tuple[int, int, int, int]:
        """Epoch and number of the window of this token, and the positions where that begins and ends."""
        epoch, within = divmod(position, self.n_tokens)
        ends = self._plan(epoch)[1]
        window = int(np.searchsorted(ends, within, side="right"))
        first = epoch * self.n_tokens
        return epoch, window, first + (int(ends[window - 1]) if window else 0), first + int(ends[window])

    def _load(self, key: Window, filled: Filled) -> Order:
        epoch, window = key
        units, ends = self._plan(epoch)
        begin, end = int(ends[window - 1]) if window else 0, int(ends[window])
        units = units[self._bounds[window] : self._bounds[window + 1]]
        order = np.random.default_rng([self.seed, epoch, window + 1]).permutation(end - begin)
        if self._share is not None:
            return self._load_share(units, order, epoch * self.n_tokens + begin, self._share, filled), None
        out = self._room(end - begin)
        self._fill(units, out, filled)
        return self._within_limit(torch.from_numpy(order).to(out.device), out)

    def _load_share(
        self, units: np.ndarray, order: np.ndarray, begin: int, share: tuple[int, int], filled: Filled
    ) -> Tensor:
        """Bring those tokens of a window into memory that are in the share of their batches; returns their order."""
        raise NotImplementedError

    def _after(self, key: Window, window: Order) -> Window | None:
        epoch, number = key
        end = epoch * self.n_tokens + int(self._plan(epoch)[1][number])
        last = None if self.epochs is None else (self._passes + 1) * self.epochs * self.n_tokens
        return None if end == last else self._place(end)[:2]

    def _fill(self, units: np.ndarray, out: Tensor, filled: Filled) -> None:
        """Write the tokens of ``units``, one unit after the other in any fixed order, into ``out`` [n, d_in]."""
        raise NotImplementedError

    def _plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        planned = self._planned  # which another thread may replace meanwhile
        if planned is None or planned[0] != epoch:
            units = np.random.default_rng([self.seed, epoch]).permutation(len(self._lengths))
            ends = np.add.reduceat(self._lengths[units], self._bounds[:-1]).cumsum()
            self._planned = planned = (epoch, units, ends)
        return planned[1:]


class DividedSource(ShuffledSource):
    """A source that several processes read at the same position, each no more than its share of every batch.

    A subclass implements ``_fill_some``.
    """

    def divide(self, share: tuple[int, int] | None) -> bool:
        """From the next batch on, read only rank ``share[0]``'s of ``share[1]`` shares (``peers.share_of``) of each.

        The other rows of a batch are 0, or what they were. Positions are as before. None: read whole batches again.

        Returns:
            Whether it does: not with a limit on the norm, where which tokens are in a batch depends on what was read,
            nor where batches do not begin at multiples of their size, as behind the end of a pass.
        """
        aligned = self.epochs is None and self._position % self.batch_size == 0
        if not aligned or self.norm_limit is not None or (share is not None and share[1] > self.batch_size):
            share = None
        if share != self._share:
            self.stop_prefetch()
            if self._share is not None:
                self._loaded = None  # it lacks rows
            self._share = share
        return share is not None

    def _load_share(
        self, units: np.ndarray, order: np.ndarray, begin: int, share: tuple[int, int], filled: Filled
    ) -> Tensor:
        mine = share_of(self.batch_size, *share)
        at = (begin + np.arange(len(order))) % self.batch_size
        wanted = (at >= mine.start) & (at < mine.stop)
        kept = np.zeros(len(order), dtype=bool)
        kept[order[wanted]] = True
        out = self._room(int(kept.sum()))
        self._fill_some(units, kept, out, filled)
        return torch.from_numpy(np.where(wanted, (kept.cumsum() - 1)[order], -1)).to(out.device)

    def _fill_some(self, units: np.ndarray, kept: np.ndarray, out: Tensor, filled: Filled) -> None:
        """``_fill`` with those tokens alone that are marked in ``kept`` [n]."""
        raise NotImplementedError


def differences(saved: dict[str, Any], current: dict[str, Any]) -> str:
    """``"seed: 0 there, 1 here; ..."``, or ``""`` when the two are equal."""
    names = [*current, *(name for name in saved if name not in current)]
    changed = [name for name in names if saved.get(name) != current.get(name)]
    return "; ".join(f"{name}: {saved.get(name)!r} there, {current.get(name)!r} here" for name in changed)
