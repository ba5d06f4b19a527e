"""Activations of a language model at a hook, or at several: as a shuffled stream, or written to disk."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from monosem.data import files, fingerprint, remote, shards, store_index
from monosem.data.contexts import Contexts
from monosem.data.counted import BY_NAME, SkipTokens
from monosem.data.filled import Filled
from monosem.data.folder_lock import LOCK, OWNER, lock_of_all
from monosem.data.norm_limit import NormLimit, SkipNorm
from monosem.data.protocols import HookedModel, Tokens
from monosem.data.shuffled import ShuffledSource, differences
from monosem.data.store import ActivationStore
from monosem.distributed.peers import ALONE, Peers, in_step, part_of
from monosem.ops.memory import available_memory, check_memory, human_bytes

BUFFER_BYTES = 1 << 30


class ActivationStream(ShuffledSource):
    """Activations computed on the fly, as an iterable of batches [N, d_in] that mix contexts.

    An epoch is a permutation of all contexts; ``buffer_contexts`` of them at a time are run through the model and
    their tokens are shuffled together. Each token comes exactly once per epoch. ``state_dict`` holds the exact
    position; a loaded stream runs one buffer of contexts again and continues bitwise (on the same machine, with the
    same number of threads).

    Several hooks of a model, or one hook of several models, give their activations of each token side by side,
    [N, Σ widths], as ``Trainer`` takes them for a transcoder or a crosscoder (``SAE.batch_widths``).

    Args:
        model: from ``load_model``; or several, which share a tokenizer.
        hook_name: for example ``"blocks.0.mlp.hook_post"``; or several.
        tokens: integers [rows, n_ctx], each row one context.
        epochs: how often iterating once goes through the tokens; None: without end.
        buffer_contexts: contexts in memory; more of them mix better. Memory: buffer_contexts · n_ctx · d_in values.
            None: 1,024, or as many as fit into 1 GiB (``BUFFER_BYTES``) or a quarter of the free memory, if less.
        skip_positions: left out at the beginning of each context.
        skip_tokens: left out wherever they stand: ids, ``"bos"``, ``"eos"``, ``"pad"``, ``"special"``.
        dtype: of the buffer and of the batches.
        forward_contexts: contexts in one forward pass.
        skip_norm: leave out tokens whose norm exceeds this multiple of the median, which is measured on 64 contexts
            (``norm_limit``); or a ``NormLimit``; None: none. ``left_out`` counts them.
        prefetch: run the model for the next buffer in a thread while batches are taken from this one: the same batches,
            twice the memory of the buffer. None: where ``Trainer`` has the dictionary on another device than the model,
            and there is room. On one device both take turns on it, and a CPU gains nothing.
    """

    filling = "running the model to fill the shuffle buffer"

    def __init__(
        self,
        model: HookedModel | Sequence[HookedModel],
        hook_name: str | Sequence[str],
        tokens: Tokens,
        batch_size: int = 4096,
        seed: int = 0,
        epochs: int | None = None,
        buffer_contexts: int | None = None,
        skip_positions: int = 1,
        dtype: torch.dtype = torch.float32,
        *,
        forward_contexts: int = 16,
        skip_tokens: SkipTokens = BY_NAME,
        skip_norm: SkipNorm = None,
        prefetch: bool | None = None,
    ) -> None:
        if buffer_contexts is not None and (not isinstance(buffer_contexts, Integral) or buffer_contexts < 1):
            raise ValueError(f"buffer_contexts: got {buffer_contexts!r}; wanted an integer ≥ 1, or None")
        self.contexts = Contexts(model, hook_name, tokens, skip_positions, forward_contexts, skip_tokens, skip_norm)
        sites = self.contexts.sites
        self.hook_name, self.model_name, self.widths = sites.hook_name, sites.model_name, sites.widths
        probe = next(self.contexts.activations(np.array([0])))  # reports a wrong model or hook before the work
        held = buffer_contexts or default_buffer(self.contexts.kept * self.contexts.d_in * dtype.itemsize, probe.device)
        self._arrange(
            d_in=self.contexts.d_in,
            lengths=self.contexts.lengths,
            window_tokens=held * self.contexts.kept,
            batch_size=batch_size,
            seed=seed,
            epochs=epochs,
            stored=dtype,
            dtype=dtype,
            device=probe.device,
            buffer="buffer_contexts",
            settings=self.contexts.settings
            | {"dtype": str(dtype), "forward_contexts": self.contexts.batch, "weights": sites.weights},
            windows_follow=buffer_contexts is None,
            limit=self.contexts.limit,
            prefetch=prefetch,
        )

    def _fill(self, units: np.ndarray, out: Tensor, filled: Filled) -> None:
        self.contexts.read_into(out, units, filled)


def default_buffer(context_bytes: int, device: torch.device) -> int:
    """Contexts that a stream keeps in memory by default."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    return int(max(1, min(1024, min(BUFFER_BYTES, free // 4) // max(1, context_bytes))))


def harvest(
    model: HookedModel | Sequence[HookedModel],
    hook_name: str | Sequence[str],
    tokens: Tokens,
    folder: str | Path,
    dtype: str = "bf16",
    *,
    skip_positions: int = 1,
    skip_tokens: SkipTokens = BY_NAME,
    shard_mib: int = 128,
    forward_contexts: int = 16,
    progress: bool = True,
    skip_norm: SkipNorm = None,
    peers: Peers = ALONE,
) -> ActivationStore:
    """Run the model over all contexts and write the activations at the hook to ``folder``; see ``data/shards.py``.

    A harvest that was interrupted (a kill, a full disk) continues with the first missing shard when it is called
    again in the same way; a damaged shard is written again. Calling it on a complete store checks it.

    Args:
        model, hook_name: one of each, or several activations side by side, as in ``ActivationStream``.
        tokens: integers [rows, n_ctx], each row one context.
        dtype: ``"bf16"`` (half the space) or ``"fp32"``.
        skip_positions: left out at the beginning of each context.
        skip_tokens: left out wherever they stand: ids, ``"bos"``, ``"eos"``, ``"pad"``, ``"special"``.
        shard_mib: size of a shard; also the memory that is needed.
        skip_norm: as in ``ActivationStream``. The limit is stored, and ``ActivationStore`` leaves out the tokens beyond
            it; they are on disk, so that another limit may be chosen there.
        peers: processes that harvest together (``distributed.ranks.of_all()``), each consecutive shards. All make the
            same call; the files are those of a single process.

    Returns:
        The store, opened for reading.

    Raises:
        ValueError: bad input (see ``Contexts``); ``folder`` holds other activations, or other files; NaN or Inf.
        OSError: not enough free space, before anything is written; or the disk is full after all.
        RuntimeError: another run writes to ``folder``.
    """
    if dtype not in shards.DTYPES:
        raise ValueError(f"dtype: got {dtype!r}; wanted one of {', '.join(shards.DTYPES)}")
    if not isinstance(shard_mib, Integral) or shard_mib < 1:
        raise ValueError(f"shard_mib: got {shard_mib!r}; wanted an integer ≥ 1")
    contexts = Contexts(model, hook_name, tokens, skip_positions, forward_contexts, skip_tokens, skip_norm)
    layout = shards.Layout(contexts.d_in, dtype)
    per_shard = _per_shard(contexts, layout, shard_mib)
    settings = {"d_in": contexts.d_in, "dtype": dtype, **contexts.settings, "contexts_per_shard": per_shard}
    if weights := contexts.sites.weights:
        settings["weights"] = weights
    folder = remote.as_path(folder)
    index = store_index.Index(folder, settings, [None] * -(-contexts.rows // per_shard), contexts.lengths)
    largest_shard = max(map(index.tokens, range(len(index.shards))))
    check_memory(layout.size(largest_shard), f"{largest_shard:,} activations of width {contexts.d_in:,}", "shard_mib")
    peers.same("tokens", "contexts or settings", settings, "Give the same text, model and options to every process.")
    progress = progress and peers.is_first
    with lock_of_all(folder, peers):
        _resume(index, contexts, progress, peers)
        missing = [i for i, crc in enumerate(index.shards) if crc is None]
        peers.together(lambda: _check_disk(index, missing))
        peers.first(lambda: _begin(index, contexts))
        _write_all(index, missing, contexts, progress, peers)
    return peers.together(lambda: ActivationStore(folder))


def planned_bytes(contexts: int, n_ctx: int, d_in: int, dtype: str, skip_positions: int = 1) -> int:
    """About how much disk space a harvest takes: activations, positions and tokens."""
    kept = contexts * (n_ctx - skip_positions)
    return shards.Layout(d_in, dtype).size(kept) + 4 * contexts * n_ctx


def _per_shard(contexts: Contexts, layout: shards.Layout, mib: int) -> int:
    return max(1, mib * 2**20 // (contexts.kept * layout.token_bytes))


def _resume(index: store_index.Index, contexts: Contexts, progress: bool, peers: Peers) -> None:
    """Take over the shards that an earlier harvest with the same settings left; each process checks some of them."""
    stored = peers.together(lambda: _there(index, contexts))
    if stored is None:
        return
    mine = range(peers.rank, len(index.shards), peers.size)
    for some in peers.each(lambda: {i: _intact(stored, i, progress) for i in mine}):
        for i, crc in some.items():
            index.shards[i] = crc
    peers.together(lambda: _check_same_model(index, contexts))


def _there(index: store_index.Index, contexts: Contexts) -> store_index.Index | None:
    """What an earlier harvest with the same settings left, or None."""
    folder = index.folder
    if (folder / "index.json").exists():
        stored = store_index.read_index(folder)
        there, here = dict(stored.settings), dict(index.settings)
        if fingerprint.same_weights(there.get("weights"), here.get("weights")) is None:  # `_check_same_model` looks
            there.pop("weights", None)
            here.pop("weights", None)
        measured = there.get("skip_norm")
        if measured and contexts.limit is not None and contexts.limit.is_about(NormLimit.from_json(measured)):
            here["skip_norm"] = index.settings["skip_norm"] = measured
        if different := differences(there, here):
            raise ValueError(
                f"folder: {str(folder)!r} holds other activations ({different}); harvest with those settings to "
                "continue there, or choose another folder"
            )
        stored.lengths = index.lengths  # of the same tokens, which may have to be written again
        return stored
    if others := sorted(p.name for p in folder.iterdir() if p.name not in (LOCK, OWNER)):
        raise ValueError(
            f"folder: {str(folder)!r} holds {', '.join(others[:3])}{' …' if others[3:] else ''} and no activations; "
            "wanted a new or empty folder, or one of an earlier harvest"
        )
    return None


def _begin(index: store_index.Index, contexts: Contexts) -> None:
    if not (index.folder / "index.json").exists():
        index.write()
    try:
        store_index.read_tokens(index)
    except ValueError:  # absent, or damaged: it is written again from the same tokens
        files.write_array(index.folder / "tokens.npy", np.ascontiguousarray(contexts.tokens, dtype=np.int32))


def _intact(index: store_index.Index, shard: int, progress: bool) -> int | None:
    if index.shards[shard] is None:
        return None
    try:
        index.open(shard).verify()
    except shards.DamagedShard as error:
        if progress:
            tqdm.write(f"{str(error).split(' Run the same')[0]} It is made again.")
        return None
    return index.shards[shard]


def _check_same_model(index: store_index.Index, contexts: Contexts) -> None:
    """A model of the same name may have other weights: compare one stored context with what it gives now."""
    stored = next((i for i, crc in enumerate(index.shards) if crc is not None and index.tokens(i)), None)
    if stored is None:
        return
    rows = np.array(index.contexts(stored))
    first = int(np.argmax(index.lengths[rows] > 0))  # earlier ones store nothing
    old = torch.from_numpy(index.open(stored).bits()[: index.lengths[rows[first]]].copy())
    old = old.view(shards.DTYPES[index.settings["dtype"]]).double()
    new = next(contexts.activations(rows[first : first + 1])).cpu().double()
    error = float((new - old).norm() / old.norm().clamp_min(1e-30))
    if not error < 0.02:  # bf16 rounds to 0.002; another machine or a larger batch adds far less than that
        raise ValueError(
            f"folder: {str(index.folder)!r} holds activations of another {index.settings['model']!r}: on one context "
            f"the stored ones differ by {error:.1%} from those of this model. Choose another folder."
        )


def _check_disk(index: store_index.Index, missing: list[int]) -> None:
    if remote.is_remote(index.folder):  # nobody says how much room there is
        return
    needed = sum(index.layout.size(index.tokens(i)) for i in missing)
    if not (index.folder / "tokens.npy").exists():
        needed += 4 * index.settings["rows"] * index.settings["n_ctx"]
    free = shutil.disk_usage(index.folder).free
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"folder: {str(index.folder)!r} needs {human_bytes(needed)} for {len(missing)} shards, its disk has "
            f"{human_bytes(free)} free; free some space, harvest fewer contexts, or use dtype bf16",
        )


def _write_all(index: store_index.Index, missing: list[int], contexts: Contexts, progress: bool, peers: Peers) -> None:
    """Write these shards, each process consecutive ones; the index says after each which are on disk."""
    total = int(contexts.lengths.sum())
    there = total - sum(index.tokens(i) for i in missing)
    mine = missing[part_of(len(missing), peers)]
    with tqdm(total=total, initial=there, unit="tok", unit_scale=True, desc="harvest", disable=not progress) as bar:

        def noted(written: list[tuple[int, int]]) -> None:
            for shard, crc in written:
                index.shards[shard] = crc
                bar.update(0 if shard in mine else index.tokens(shard))
            if written:
                peers.first(index.write)

        in_step(peers, mine, lambda shard: (shard, _write(index, shard, contexts, bar)), noted, seconds=0)


def _write(index: store_index.Index, shard: int, contexts: Contexts, bar: tqdm) -> int:
    """Write a shard; returns its checksum for the index."""
    rows = np.array(index.contexts(shard))
    here, positions = contexts.counted(rows).nonzero()
    out = torch.empty(len(here), contexts.d_in, dtype=shards.DTYPES[index.settings["dtype"]], device="cpu")
    done = 0
    for activations in contexts.activations(rows):
        finite = activations.isfinite().all(dim=1)
        if not finite.all():
            bad = rows[here[done + int((~finite).nonzero()[0, 0])]]
            hook, model = contexts.sites.hook_name, contexts.sites.model_name
            raise ValueError(
                f"hook_name: {hook!r} of {model!r} gave NaN or Inf for context {bad}; "
                "wanted finite activations. Shards written so far are good."
            )
        out[done : done + len(activations)].copy_(activations)
        done += len(activations)
        bar.update(len(activations))
    return shards.write_shard(index.path(shard), index.layout, out, rows[here], positions)
