"""Read activations from disk: shuffled over the whole store, in bounded memory, every byte checked once."""

from __future__ import annotations

from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from monosem.data import remote, shards, store_index
from monosem.data.filled import Filled
from monosem.data.norm_limit import AS_HARVESTED, NormLimit, SkipNorm, as_trained
from monosem.data.shuffled import DividedSource

_SAMPLED = 1 << 14  # tokens by which a median norm is measured, evenly spaced


class ActivationStore(DividedSource):
    """The activations that ``harvest`` wrote, as an iterable of fp32 batches [N, d_in], several side by side.

    Blocks of about 128 KiB are drawn without replacement from the whole store, read in the order in which they lie
    on disk, ``buffer_mib`` of them at a time, and their tokens are shuffled: a batch mixes up to two thousand places
    of the store, each token comes exactly once per epoch, and memory does not grow with the store. Same folder, same
    seed: bitwise the same batches.

    Args:
        folder: written by ``harvest``; or its address, ``s3://bucket/acts``, in any file system of fsspec. Parts are
            then fetched as they are needed, many at a time.
        batch_size: N.
        epochs: how often iterating once goes through the store; None: without end.
        buffer_mib: memory of the shuffle buffer, in the type on disk.
        holdout: share of the contexts, evenly spaced, that is set aside.
        held_out: iterate over what is set aside instead of the rest.
        skip_norm: leave out tokens whose norm exceeds this multiple of the median norm, or a ``NormLimit``; "as
            harvested": the limit of the harvest, if it had one; None: none.
        prefetch: read the next buffer in a thread while batches are taken from this one: twice the memory. None: where
            there is room, and ``Trainer`` has the dictionary on a GPU or the folder is an address.

    Attributes:
        bytes_read: of activations, so far: those of rows and of parts that were compared with their checksums.

    Raises:
        FileNotFoundError: no store there.
        ValueError: the harvest is not complete, a shard is missing or has the wrong size (an altered one is found
            when it is first read), the index is damaged, or nothing is left to read; says what to do.
    """

    bytes_read = 0

    def __init__(
        self,
        folder: str | Path,
        batch_size: int = 4096,
        seed: int = 0,
        epochs: int | None = 1,
        *,
        buffer_mib: int = 256,
        holdout: float = 0.0,
        held_out: bool = False,
        skip_norm: SkipNorm | str = AS_HARVESTED,
        prefetch: bool | None = None,
    ) -> None:
        self.index = store_index.read_index(folder)
        self.folder, settings = self.index.folder, self.index.settings
        missing = [i for i, shard in enumerate(self.index.shards) if shard is None]
        if missing:
            raise ValueError(
                f"folder: {str(folder)!r} lacks {len(missing)} of {len(self.index.shards)} shards, its harvest was "
                "interrupted; run the same `monosem harvest` again, it continues where it stopped."
            )
        if not isinstance(buffer_mib, Integral) or buffer_mib < 0:
            raise ValueError(f"buffer_mib: got {buffer_mib!r}; wanted an integer ≥ 0")
        if not 0 <= holdout < 1:
            raise ValueError(f"holdout: got {holdout}; wanted a share of the contexts in [0, 1)")
        self.hook_name, self.model_name = settings["hook_name"], settings["model"]
        self.widths = tuple(settings.get("widths", [settings["d_in"]]))
        self._shards = self.index.open_all()
        tokens = np.array([shard.tokens for shard in self._shards], np.int64)
        self._ends = tokens.cumsum()  # of the shards, in tokens of the store
        self._bases = self._ends - tokens
        self.n_stored = int(self._ends[-1])
        layout, self._layout = self.index.layout, self.index.layout
        starts, lengths = self._blocks(holdout, held_out)
        if not len(starts):
            raise ValueError(
                f"holdout: {holdout} of {settings['rows']} contexts leaves none to read; wanted a share that gives at "
                "least one context to each part"
            )
        self._starts, self._tokens = starts, None
        self.far = remote.is_remote(self.folder)
        self._arrange(
            d_in=layout.d_in,
            lengths=lengths,
            window_tokens=max(layout.chunk_tokens, buffer_mib * 2**20 // layout.token_bytes),
            batch_size=batch_size,
            seed=seed,
            epochs=epochs,
            stored=shards.DTYPES[layout.dtype],
            dtype=torch.float32,
            device="cpu",
            buffer="buffer_mib",
            settings=settings | {"holdout": float(holdout), "held_out": bool(held_out), "content": self.index.content},
            prefetch=prefetch,
        )
        self._set_limit(self._limit(skip_norm))

    def _limit(self, skip_norm: SkipNorm | str) -> NormLimit | None:
        if skip_norm is None or isinstance(skip_norm, NormLimit):
            return skip_norm
        if isinstance(skip_norm, str):
            if skip_norm != AS_HARVESTED:
                raise ValueError(
                    f"skip_norm: got {skip_norm!r}; wanted a multiple of the median norm, {AS_HARVESTED!r}, or None"
                )
            return as_trained(self.index.settings)
        count = min(_SAMPLED, self.n_stored)
        x = self.read(np.arange(count) * self.n_stored // count)[0]
        return NormLimit.measured(skip_norm, [x.split(list(self.widths), dim=1)])

    @property
    def tokens(self) -> np.ndarray:
        """The contexts that the model read, int32 [rows, n_ctx], memory-mapped; a row of ``read`` is a row of it.

        Raises:
            ValueError: the file is missing or was altered.
        """
        if self._tokens is None:
            self._tokens = store_index.read_tokens(self.index)
        return self._tokens

    def read(self, indices: Tensor | np.ndarray | list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Activations by number, 0 … ``n_stored`` - 1 in the order of the contexts, held-out ones included.

        Returns:
            activations fp32 [n, d_in], the row of ``tokens`` [n] and the position in it [n], int64.
        """
        places = np.asarray(indices)
        if places.ndim != 1 or (places.size and places.dtype.kind not in "iu"):
            raise ValueError(f"indices: got {places.dtype} {list(places.shape)}; wanted integers [n]")
        places = places.astype(np.int64)
        if places.size and not 0 <= places.min() <= places.max() < self.n_stored:
            raise ValueError(f"indices: got {places.min()} to {places.max()}; wanted 0 to {self.n_stored - 1}")
        out = torch.empty(len(places), self.d_in, dtype=shards.DTYPES[self._layout.dtype], device="cpu")
        into, where = shards.as_bits(out, self._layout.dtype), np.empty((2, len(places)), np.int64)
        home = np.searchsorted(self._ends, places, side="right")
        within = places - self._bases[home]
        wanted = self._parts(home, within, 1)
        for number, bits in self.index.bits(self._shards, wanted):
            shard, chosen = self._shards[number], np.flatnonzero(home == number)
            local = within[chosen]
            for chunk in wanted[number].tolist():
                first = chunk * self._layout.chunk_tokens
                shard.check(bits, first, first + 1)
            into[chosen] = bits[local]
            where[:, chosen] = np.stack(shard.where())[:, local]
        return out.to(torch.float32), torch.from_numpy(where[0]), torch.from_numpy(where[1])

    def verify(self) -> None:
        """Read the whole store and compare every checksum.

        Raises:
            ValueError: names the first shard that is damaged.
        """
        for shard in self._shards:
            shard.verify()

    def _blocks(self, holdout: float, held_out: bool) -> tuple[np.ndarray, np.ndarray]:
        """First token and length of each block; no block crosses a shard or the border of what is held out."""
        rows = np.arange(self.index.settings["rows"])
        chosen = (np.floor((rows + 1) * holdout) > np.floor(rows * holdout)) == held_out
        starts, lengths = [], []
        for number in range(len(self._shards)):
            here = slice(self.index.contexts(number).start, self.index.contexts(number).stop)
            edges = np.flatnonzero(np.diff(chosen[here], prepend=False, append=False))
            edges = np.append(0, self.index.lengths[here].cumsum())[edges]
            base = self._bases[number]
            for first, last in edges.reshape(-1, 2):
                cuts = np.arange(first, last, self._layout.chunk_tokens)
                starts.append(base + cuts)
                lengths.append(np.minimum(cuts + self._layout.chunk_tokens, last) - cuts)
        none = [np.zeros(0, np.int64)]
        return np.concatenate(starts or none), np.concatenate(lengths or none)

    def _fill(self, units: np.ndarray, out: Tensor, filled: Filled) -> None:
        self._fill_some(units, None, out, filled)

    def _fill_some(self, units: np.ndarray, kept: np.ndarray | None, out: Tensor, filled: Filled) -> None:
        """Of several processes that read shares, each compares the checksums of some parts of the store."""
        into, done, at = shards.as_bits(out, self._layout.dtype), 0, 0
        units = np.sort(units)  # the order on disk
        starts, lengths = self._starts[units], self._lengths[units]
        homes = np.searchsorted(self._ends, starts, side="right")
        for number, bits in self.index.bits(self._shards, self._parts(homes, starts - self._bases[homes], lengths)):
            shard, base = self._shards[number], self._bases[number]
            here = homes == number
            for first, length in zip((starts[here] - base).tolist(), lengths[here].tolist(), strict=True):
                checked = 0
                if (
                    self.far
                    or self._share is None
                    or first // self._layout.chunk_tokens % self._share[1] == self._share[0]
                ):
                    checked = shard.check(bits, first, first + length)
                if kept is None:
                    rows = bits[first : first + length]
                else:
                    rows = bits[first + np.flatnonzero(kept[at : at + length])]
                into[done : done + len(rows)] = rows
                self.bytes_read += max(checked * self._layout.token_bytes, rows.nbytes)
                done, at = done + len(rows), at + length
                filled(len(rows))

    def _parts(self, homes: np.ndarray, starts: np.ndarray, lengths: np.ndarray | int) -> dict[int, np.ndarray]:
        """{number of a shard: numbers of its parts, ascending} for blocks that begin at ``starts`` in their shards."""
        if not len(homes):
            return {}
        step = self._layout.chunk_tokens
        first, last = starts // step, (starts + lengths - 1) // step  # at most two parts: a block is as long as one
        base = int(last.max()) + 1
        pairs = np.unique(np.concatenate([homes * base + first, homes * base + last]))
        numbers, begin = np.unique(pairs // base, return_index=True)
        return dict(zip(numbers.tolist(), np.split(pairs % base, begin[1:]), strict=True))
