"""Cross-products of sparse codes against dense products in float64: in memory, through the disk, sparse and dense."""

import os

import pytest
import torch

from monosem.analysis import cross_products
from monosem.analysis.cross_products import CrossProducts, Entries


def code(tokens, features, density, products, seed):
    """A random code, as entries and as dense [P, tokens, features]."""
    g = torch.Generator().manual_seed(seed)
    on = torch.rand(tokens, features, generator=g) < density
    on[tokens // 2 : tokens // 2 + 2] = False  # tokens without any entry
    values = torch.rand(products, tokens, features, generator=g) * on
    at, which = on.nonzero().T
    return Entries(which, at, values[:, at, which]), values.double()


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (13, 7), (7, 30)])
@pytest.mark.parametrize("block", [None, 1, 5])
@pytest.mark.parametrize("how", ["sparse", "dense", "a pair at a time"])
def test_products_agree_with_dense_ones(monkeypatch, tmp_path, rows, columns, block, how):
    monkeypatch.setattr(cross_products, "_DENSE", {"dense": 1 << 40}.get(how, 0))
    monkeypatch.setattr(cross_products, "_PAIRS", 1 if how == "a pair at a time" else 50)
    monkeypatch.setattr(cross_products, "_AT_ONCE", 4)
    products = 2
    memory = 1 << 30 if block is None else 8 * products * columns * block
    wanted = torch.zeros(products, rows, columns, dtype=torch.float64)
    with CrossProducts(rows, columns, products, memory, tmp_path) as sums:
        assert sums.block == (rows if block is None else min(block, rows))
        for chunk in range(3):
            tokens = 11 + chunk
            a, dense_a = code(tokens, rows, 0.3, products, 2 * chunk)
            b, dense_b = code(tokens, columns, 0.4, products, 2 * chunk + 1)
            sums.update(a, b, tokens)
            wanted += dense_a.transpose(1, 2) @ dense_b
        got = torch.zeros_like(wanted)
        for numbers, part in sums.blocks():
            got[:, numbers] += part
        some = torch.arange(0, rows, 2), torch.arange(columns // 3, columns)
        chosen = torch.zeros_like(wanted)
        for numbers, part in sums.blocks(*some):
            assert part.shape[2] == len(some[1])
            chosen[:, numbers[:, None], some[1]] += part
    # Values are fp32; the dense way also sums the few tokens of a chunk in fp32.
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-6 if how == "dense" else 1e-12)
    only = torch.zeros(rows, columns, dtype=torch.bool)
    only[some[0][:, None], some[1]] = True
    torch.testing.assert_close(chosen, got * only, atol=1e-6, rtol=1e-6 if how == "dense" else 1e-12)
    assert os.listdir(tmp_path) == []


def test_a_wrong_number_of_values_is_named():
    a, _ = code(5, 3, 0.5, 1, 0)
    with pytest.raises(ValueError, match=r"b: got values \[2, "):
        CrossProducts(3, 3).update(a, code(5, 3, 0.5, 2, 0)[0], 5)


def test_the_bar_counts_the_tokens_of_every_part(tmp_path, capsys):
    with CrossProducts(13, 7, 1, memory=8 * 7 * 5, folder=tmp_path) as sums:  # 5 rows at a time: 3 parts
        for tokens in (11, 12):
            sums.update(code(tokens, 13, 0.3, 1, 0)[0], code(tokens, 7, 0.4, 1, 1)[0], tokens)
        assert sum(len(numbers) for numbers, _ in sums.blocks()) == 13 and capsys.readouterr().err == ""
        assert sum(len(numbers) for numbers, _ in sums.blocks(progress="joining")) == 13
    assert "joining: 100%" in (shown := capsys.readouterr().err) and "69.0/69.0" in shown
