"""Stores at addresses of fsspec: the same bytes and batches as on disk, few requests at a time, damage found."""

import asyncio
import json
import time
import uuid

import fsspec
import numpy as np
import pytest
import torch
from fake_model import HOOK, FakeModel, numbered
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from tiny import TEXTS
from upath import UPath

from monosem.cli.main import main
from monosem.data import files, remote, remote_shards, shards
from monosem.data.harvest import harvest
from monosem.data.store import ActivationStore
from monosem.distributed.peers import share_of

ROWS = 64


class Far(AsyncFileSystem):
    """Files of ``memory://`` of which each request takes ``LATENCY`` seconds, however many are made at a time."""

    protocol = "far"
    LATENCY = 0.0
    requests = 0
    cachable = False
    listings = {}
    held = MemoryFileSystem()

    async def _wait(self):
        type(self).requests += 1
        await asyncio.sleep(self.LATENCY)

    async def _cat_file(self, path, start=None, end=None, **_):
        await self._wait()
        return self.held.cat_file(path, start=start, end=end)

    async def _info(self, path, **_):
        await self._wait()
        return self.held.info(path)

    async def _ls(self, path, detail=True, **_):
        """Listings are kept, as those of s3 are."""
        if path not in self.listings:
            await self._wait()
            self.listings[path] = self.held.ls(path, detail=detail)
        return self.listings[path]

    def invalidate_cache(self, path=None):
        self.listings.clear()

    async def _put_file(self, lpath, rpath, **_):
        await self._wait()
        self.held.put_file(lpath, rpath)

    async def _mv_file(self, one, two):
        await self._wait()
        self.held.mv(one, two)

    def mv(self, one, two, **_):
        self.held.mv(one, two)

    def _open(self, path, mode="rb", **_):
        type(self).requests += 1
        time.sleep(self.LATENCY)
        return self.held.open(path, mode)


fsspec.register_implementation("far", Far, clobber=True)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Shards of six contexts, in parts of ten tokens."""
    monkeypatch.setattr("monosem.data.harvest._per_shard", lambda *_: 6)
    monkeypatch.setattr(shards, "_CHUNK_BYTES", 200)


@pytest.fixture
def address():
    return f"memory://{uuid.uuid4().hex}/acts"


def write(folder, **options):
    return harvest(FakeModel(), HOOK, numbered(ROWS), folder, "fp32", progress=False, **options)


def names(folder):
    path = remote.as_path(folder)
    return {p.name: p.read_bytes() for p in path.iterdir() if p.is_file()}


def opened(folder, mib=0, **options):
    return ActivationStore(folder, **{"batch_size": 50, "seed": 3, "buffer_mib": mib} | options)


def test_files_are_those_of_a_local_harvest(address, tmp_path):
    write(address)
    write(tmp_path)
    there, here = names(address), names(tmp_path)
    assert there == here and len(there) == 13


@pytest.mark.parametrize("mib", [0, 1])
@pytest.mark.parametrize("options", [{}, {"holdout": 0.3}, {"holdout": 0.3, "held_out": True}, {"epochs": 2}])
def test_batches_are_those_of_a_local_store(address, tmp_path, mib, options, monkeypatch):
    monkeypatch.setattr(remote_shards, "_GROUP", 500)
    write(address)
    write(tmp_path)
    here, there = opened(tmp_path, mib, **options), opened(address, mib, **options)
    for mine, theirs in zip(here, there, strict=True):
        assert torch.equal(mine, theirs) and json.dumps(here.state_dict()) == json.dumps(there.state_dict())
    assert here.fingerprint() == there.fingerprint()
    assert np.array_equal(here.tokens, there.tokens)
    # Each part was brought over once in an epoch; behind the border of what is held out a part may be read twice.
    epoch = there.n_tokens * 20
    assert epoch <= there.bytes_read / options.get("epochs", 1) <= epoch * (2 if "holdout" in options else 1)


def test_rows_by_number(address, tmp_path):
    write(address)
    write(tmp_path)
    wanted = torch.tensor([7, 959, 0, 7, 300])
    for mine, theirs in zip(opened(tmp_path).read(wanted), opened(address).read(wanted), strict=True):
        assert torch.equal(mine, theirs)
    assert opened(address).read(torch.tensor([], dtype=torch.int64))[0].shape == (0, 5)
    opened(address).verify()


@pytest.mark.parametrize("share", [(0, 2), (1, 2)])
def test_shares(address, tmp_path, share):
    write(address)
    write(tmp_path)
    whole, store = opened(tmp_path, epochs=None), opened(address, epochs=None)
    assert store.divide(share)
    mine = share_of(50, *share)
    for _, theirs, ours in zip(range(30), whole, store, strict=False):
        assert torch.equal(ours[mine], theirs[mine])
    store.stop_prefetch()


def test_an_interrupted_harvest_goes_on(address, monkeypatch):
    class Stops(FakeModel):
        left = 3

        def activations(self, *args):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().activations(*args)

    with pytest.raises(KeyboardInterrupt):
        harvest(Stops(), HOOK, numbered(ROWS), address, "fp32", progress=False)
    with pytest.raises(ValueError, match="interrupted; run the same `monosem harvest` again"):
        opened(address)
    before = names(address)
    made = []
    write_shard = shards.write_shard
    monkeypatch.setattr(shards, "write_shard", lambda path, *rest: made.append(path.name) or write_shard(path, *rest))
    write(address)
    assert set(made).isdisjoint(name for name in before if name.endswith(".bin")) and made
    assert not [name for name in names(address) if "part" in name or "lock" in name]


@pytest.mark.parametrize("where", [25, -30, -2])
def test_damage_is_found_and_mended(address, where):
    write(address)
    path = remote.as_path(address) / "shard-00004.bin"
    data = bytearray(good := path.read_bytes())
    data[where] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(shards.DamagedShard, match=r"'shard-00004.bin' of 'memory://.*' was altered \(the checksum of"):
        list(opened(address))
    with pytest.raises(shards.DamagedShard):
        opened(address).verify()
    write(address)
    assert path.read_bytes() == good
    path.write_bytes(good[:-1])
    with pytest.raises(shards.DamagedShard, match="wanted"):
        opened(address)
    path.unlink()
    with pytest.raises(shards.DamagedShard, match="is missing"):
        opened(address)


def test_a_part_is_checked_whenever_it_comes(address):
    write(address)
    store = opened(address, epochs=None)
    steps = iter(store)
    for _ in range(30):
        next(steps)
    for path in remote.as_path(address).glob("*.bin"):
        data = bytearray(path.read_bytes())
        data[25] ^= 1
        path.write_bytes(bytes(data))
    with pytest.raises(shards.DamagedShard):
        for _ in range(30):
            next(steps)


def test_requests_are_made_side_by_side(address, monkeypatch):
    write(address)
    far = address.replace("memory:", "far:")
    store = opened(far, 1)
    parts = sum(shard.parts for shard in store._shards)
    monkeypatch.setattr(Far, "LATENCY", 0.1)
    monkeypatch.setattr(Far, "requests", 0)
    began = time.perf_counter()
    next(iter(store))
    # 99 parts and 11 tails: one after the other they would take 11 seconds. Neighbours of a shard come together.
    assert parts > 90 and Far.requests == 22
    assert time.perf_counter() - began < 2
    store.stop_prefetch()


def test_a_listing_of_before_is_not_believed(address):
    """Of several processes that harvest, one may have seen the folder before the others wrote to it."""
    folder = remote.as_path(address.replace("memory:", "far:"))
    remote.as_path(address).mkdir(parents=True)
    assert not list(folder.iterdir())
    write(address)
    assert not list(folder.iterdir()) and len(remote.sizes(folder)) == 13


def test_opening_asks_once_for_all_sizes(address, monkeypatch):
    write(address)
    far = address.replace("memory:", "far:")
    monkeypatch.setattr(Far, "requests", 0)
    opened(far)
    assert Far.requests <= 8  # index, tokens, one listing


def test_the_next_buffer_comes_while_batches_are_taken(address):
    write(address)
    assert opened(address, prefetch=None)._prefetches() and not opened(address, prefetch=False)._prefetches()
    steps = iter(store := opened(address, epochs=None))
    next(steps)
    assert store._ahead is not None
    store.stop_prefetch()


def test_a_chain_keeps_a_copy_on_disk(address, tmp_path):
    write(address)
    chained = UPath(f"simplecache::{address}", cache_storage=str(tmp_path / "kept"))
    assert torch.equal(next(iter(opened(chained))), next(iter(opened(address))))


def test_an_address_of_a_local_folder_is_that_folder(tmp_path):
    write(tmp_path)
    store = opened(tmp_path.as_uri())
    assert store.folder == tmp_path and isinstance(store._shards[0].bits(), np.memmap)


def test_train_from_an_address(tmp_path, capsys, address):
    lines = [json.dumps({"text": text * 20, "source": name}) for name, text in TEXTS.items()]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    text = ["--text", str(tmp_path / "text.jsonl"), "--contexts", "12", "--quiet"]
    assert main(["harvest", *text, "--out", address]) == 0
    said = capsys.readouterr().out
    assert f"in {address}" in said and f"next: monosem train --activations {address} --out runs/acts" in said
    assert {"run.yaml", "text.json"} <= set(names(address))
    train = ["--d-sae", "64", "--steps", "5", "--batch-size", "64", "--quiet"]
    assert main(["train", "--activations", address, *train, "--out", str(tmp_path / "far")]) == 0
    assert main(["harvest", *text, "--out", str(tmp_path / "acts")]) == 0
    assert main(["train", "--activations", str(tmp_path / "acts"), *train, "--out", str(tmp_path / "near")]) == 0
    one, two = ((tmp_path / name / "sae.safetensors").read_bytes() for name in ("far", "near"))
    assert one == two


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda a: opened("nothing://x/y"), ValueError, "folder: got 'nothing://x/y'.*an address that fsspec knows"),
        (lambda a: opened(a), FileNotFoundError, "holds no activations .no index.json."),
    ],
)
def test_errors(address, call, error, words):
    with pytest.raises(error, match=words):
        call(address)


def test_the_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "upath", None)
    with pytest.raises(ImportError, match=r"pip install 'monosem\[remote\]'"):
        opened("memory://x/y")


@pytest.mark.parametrize("out", ["s3://bucket/run", "file:///run"])
def test_results_are_written_here(capsys, out):
    assert main(["train", "--out", out, "--steps", "1"]) == 2
    assert f"out: got '{out}'; wanted a folder on this machine's disks" in capsys.readouterr().err


def test_a_failed_upload_leaves_what_was_there(address, monkeypatch):
    path = remote.as_path(address) / "index.json"
    files.write_text(path, "old")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MemoryFileSystem, "put_file", full)
    with pytest.raises(OSError, match=r"could not write 'memory://.*index.json'.*is untouched"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
