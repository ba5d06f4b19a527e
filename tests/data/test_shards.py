"""The format on disk: round trips, and an error for every kind of damage."""

import json
import zlib

import numpy as np
import pytest
import torch

from monosem.data import shards, store_index

SETTINGS = {
    "model": "m",
    "hook_name": "h",
    "rows": 5,
    "n_ctx": 4,
    "skip_positions": 1,
    "tokens_crc32": 0,
    "contexts_per_shard": 2,
}


def activations(tokens, width, dtype):
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(tokens)).to(shards.DTYPES[dtype])


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("tokens, width", [(1, 1), (3, 7), (1000, 513), (7, 100_003), (129, 1024)])
def test_round_trip(tmp_path, dtype, tokens, width):
    layout = shards.Layout(width, dtype)
    x, rows, positions = activations(tokens, width, dtype), np.arange(tokens) + 70_000, np.arange(tokens)[::-1]
    crc = shards.write_shard(tmp_path / "s.bin", layout, x, rows, positions)
    assert (tmp_path / "s.bin").stat().st_size == layout.size(tokens)
    shard = shards.Shard(tmp_path / "s.bin", tokens, crc, layout)
    shard.verify()
    assert np.array_equal(shard.bits(), shards.as_bits(x, dtype))
    assert all(np.array_equal(*pair) for pair in zip(shard.where(), (rows, positions), strict=True))
    raw = np.fromfile(tmp_path / "s.bin", np.int16 if dtype == "bf16" else np.float32, tokens * width)  # as documented
    raw = torch.from_numpy(raw).view(shards.DTYPES[dtype]).view(tokens, width)
    assert torch.equal(raw, x)


def test_bf16_keeps_every_bit_pattern(tmp_path):
    x = torch.arange(-32768, 32768, dtype=torch.int16).view(torch.bfloat16).view(64, 1024)
    crc = shards.write_shard(tmp_path / "s.bin", shards.Layout(1024, "bf16"), x, np.zeros(64), np.zeros(64))
    read = shards.Shard(tmp_path / "s.bin", 64, crc, shards.Layout(1024, "bf16")).bits()
    assert np.array_equal(read, x.view(torch.int16).numpy())


@pytest.fixture
def shard(tmp_path):
    """A function that writes 300 tokens of width 512 in fp32 (64 per checksum), damages the file and opens it."""
    layout = shards.Layout(512, "fp32")
    path = tmp_path / "shard-00000.bin"
    crc = shards.write_shard(path, layout, activations(300, 512, "fp32"), np.arange(300), np.arange(300))

    def opened(flip: int | None = None, cut: int | None = None) -> shards.Shard:
        data = bytearray(path.read_bytes())
        if flip is not None:
            data[flip] ^= 0x10
        path.write_bytes(data[: len(data) if cut is None else cut])
        return shards.Shard(path, 300, crc, layout)

    return opened


def test_a_truncated_shard_is_detected_on_open(shard):
    with pytest.raises(shards.DamagedShard, match=r"shard-00000.bin.*has 616,819 bytes; wanted 616,820 bytes"):
        shard(cut=-1)


def test_a_missing_shard_is_reported(tmp_path):
    with pytest.raises(shards.DamagedShard, match="is missing; wanted"):
        shards.Shard(tmp_path / "shard-00007.bin", 3, 0, shards.Layout(3, "bf16"))


@pytest.mark.parametrize("flip, tokens", [(0, "0 to 63"), (64 * 2048, "64 to 127"), (299 * 2048 + 2047, "256 to 299")])
def test_an_altered_chunk_is_detected_when_read(shard, flip, tokens):
    damaged = shard(flip=flip)
    bits, token = damaged.bits(), flip // 2048
    with pytest.raises(shards.DamagedShard, match=f"checksum of tokens {tokens} differs.*harvest` .*again"):
        damaged.check(bits, token, token + 1)
    elsewhere = (token + 64) % 256
    damaged.check(bits, elsewhere, elsewhere + 1)  # the rest is still good
    with pytest.raises(shards.DamagedShard):
        damaged.verify()


@pytest.mark.parametrize("flip", [-1, -4 * 5 - 1, -2400])  # a checksum, a position, a row
def test_an_altered_tail_is_detected(shard, flip):
    damaged = shard(flip=flip)
    for read in (damaged.where, damaged.verify, lambda: damaged.check(damaged.bits(), 0, 1)):
        with pytest.raises(shards.DamagedShard, match="checksum of its positions differs"):
            read()


def test_verify_reads_again_what_was_read_before(shard, tmp_path):
    good = shard()
    good.verify()
    data = bytearray(good.path.read_bytes())
    data[5] ^= 1
    good.path.write_bytes(data)
    with pytest.raises(shards.DamagedShard):
        good.verify()


def test_a_shard_truncated_while_open_is_an_error(shard):
    opened = shard()
    opened.path.write_bytes(b"short")
    with pytest.raises(shards.DamagedShard, match="cannot be mapped"):
        opened.bits()


def index(folder):
    written = store_index.Index(folder, {"d_in": 3, "dtype": "bf16", **SETTINGS}, [1, None, 2**32 - 1])
    written.write()
    return written


def test_index_round_trip(tmp_path):
    written, read = index(tmp_path), store_index.read_index(tmp_path)
    assert (read.settings, read.shards, read.folder) == (written.settings, written.shards, written.folder)
    assert [list(read.contexts(i)) for i in range(3)] == [[0, 1], [2, 3], [4]]
    assert [read.tokens(i) for i in range(3)] == [6, 6, 3]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda body: "{", "is not an index"),
        (lambda body: "[]", "is not an index"),
        (lambda body: json.dumps({"format": "other", "version": 1}), "is not an index"),
        (lambda body: json.dumps(body | {"version": 4}), "is of version 4; this monosem reads versions 1 to 3"),
        (lambda body: json.dumps(body | {"d_in": 4}), "was altered"),
        (lambda body: json.dumps(body)[:-20], "is not an index"),
        (lambda body: json.dumps({k: v for k, v in body.items() if k != "index_crc32"}), "was altered"),
    ],
)
def test_a_damaged_index(tmp_path, change, message):
    index(tmp_path)
    path = tmp_path / "index.json"
    path.write_text(change(json.loads(path.read_text())))
    with pytest.raises(ValueError, match=message):
        store_index.read_index(tmp_path)


def test_a_folder_without_a_store_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no activations.*monosem harvest"):
        store_index.read_index(tmp_path / "nowhere")


def test_the_tokens_checksum_does_not_depend_on_the_dtype():
    tokens = np.arange(9001 * 3).reshape(9001, 3)
    for kind in (np.int64, np.uint16, np.int32):
        assert store_index.tokens_checksum(tokens.astype(kind)) == zlib.crc32(tokens.astype(np.int32))
    assert store_index.tokens_checksum(tokens[:, ::2]) == zlib.crc32(tokens[:, ::2].astype(np.int32).tobytes())
