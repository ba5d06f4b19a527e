"""What several processes read together is what one reads: the same files, the same sums."""

import importlib.util
import re
import time
from pathlib import Path

import numpy as np
import pytest
import several_processes
import torch
from several_processes import started

from monosem.data.store import ActivationStore

_spec = importlib.util.spec_from_file_location("several_worker", Path(__file__).with_name("worker.py"))
worker = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(worker)

of_each_size = pytest.mark.parametrize("size", worker.SIZES)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder that the processes write to, and the process that started them."""
    with started(str(worker.__file__), tmp_path_factory.mktemp("several")) as made:
        yield made


@pytest.fixture(scope="module")
def folder(runs):
    return runs[0]


@pytest.fixture(scope="module")
def records(runs):
    """records(2): what each of two processes wrote down."""
    known = {}

    def wait(size):
        if size not in known:
            known[size] = several_processes.records(runs, str(size), size, seconds=600)
        return known[size]

    return wait


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@of_each_size
def test_sums_are_those_of_all_and_the_same_in_each(records, size):
    for record in records(size):
        for x in record["sums"]:
            assert torch.equal(x, torch.full_like(x, size * (size + 1) / 2))


@of_each_size
def test_a_store_has_the_bytes_of_one_process(folder, records, size, tmp_path):
    found = [record["harvests"] for record in records(size)]
    alone = worker.harvested(tmp_path / "alone")
    assert content(folder / str(size) / "whole") == content(tmp_path / "alone")
    assert [each["stored"] for each in found] == [alone.n_stored] * size
    measured = -(-worker.ROWS // 16)  # forward passes of the limit on the norm, in each process
    shards = [each["forwards"] - measured for each in found]
    assert sum(shards) == 10
    assert max(shards) - min(shards) <= 1


@of_each_size
def test_what_one_raises_is_raised_in_all_and_the_harvest_goes_on(folder, records, size, tmp_path):
    found = [record["harvests"] for record in records(size)]
    for rank, each in enumerate(found):
        assert each["broken"] == ("ValueError: " if rank == 1 else "RuntimeError: rank 1: ") + "the model broke"
        assert f"lacks {10 - size} of 10 shards" in each["incomplete"]
    assert sum(each["missing"] - 1 for each in found) == 10 - size, "one context, to see that it is the same model"
    worker.harvested(tmp_path / "alone", skip_norm=None)
    assert content(folder / str(size) / "parts") == content(tmp_path / "alone")
    ActivationStore(folder / str(size) / "parts").verify()


@of_each_size
def test_other_text_and_another_folder_are_told(records, size):
    for record in records(size):
        said = record["harvests"]["other text"]
        assert said.startswith(
            "ValueError: tokens: rank 1 has other contexts or settings than rank 0: rows is 36 there"
        )
        assert "of rank 1 is not that of rank 0" in record["harvests"]["other folder"]


def check_near(ours, theirs, where=""):
    """Equal but for the rounding of sums in float64; counts are equal."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for name in theirs:
            check_near(ours[name], theirs[name], f"{where}.{name}")
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs), where
        for i, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            check_near(one, other, f"{where}.{i}")
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-9), where
    else:
        assert ours == theirs, where


@pytest.mark.parametrize(
    ("size", "case"), [(size, case) for size in worker.SIZES for case in (*worker.EVALUATED[size], "few rows")]
)
def test_an_evaluation_has_the_figures_of_one_process(records, size, case):
    options = {"tokens": 32 * 5} if case == "few rows" else {}
    alone = worker.evaluated("topk" if case == "few rows" else case, **options).to_dict()
    assert alone["ce_mean"] > 0 and alone["skip_norm"]["left_out"] > 0 and len(alone["by_source"]) > 1
    for record in records(size):
        check_near(record["evaluations"][case], alone)
        assert record["evaluations"][case] == records(size)[0]["evaluations"][case], "the same bits in each"


@of_each_size
def test_an_evaluation_without_a_token_or_of_another_dictionary_is_told(records, size):
    for record in records(size):
        assert "every token of these" in record["evaluations"]["nothing"]
        said = "ValueError: rows: rank 1 has other text, dictionary or model than rank 0"
        assert record["evaluations"]["other"].startswith(said)


ROUNDED = {  # sums of values: of float64, and of float32
    "moments.mass.npy": 1e-12,
    "moments.square.npy": 1e-12,
    "crossed.sum.npy": 1e-12,
    "crossed.square.npy": 1e-12,
    "crossed.product.npy": 1e-5,
}


def check_same_index(ours, theirs):
    """The same bits, but for sums of values."""
    names = sorted(path.name for path in theirs.iterdir())
    assert sorted(path.name for path in ours.iterdir()) == names
    for name in set(names) - {"index.json"}:
        one, other = np.load(ours / name), np.load(theirs / name)
        if name in ROUNDED:
            np.testing.assert_allclose(one, other, rtol=ROUNDED[name], atol=ROUNDED[name])
        else:
            assert one.dtype == other.dtype and np.array_equal(one, other), name


@pytest.fixture(scope="module")
def indexed_alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("indexes")
    for case in worker.INDEXES:
        worker.indexed(case, folder / case)
    return folder


@pytest.mark.parametrize(("size", "case"), [(size, case) for size in worker.SIZES for case in worker.INDEXED[size]])
def test_an_index_is_that_of_one_process(folder, records, indexed_alone, size, case):
    records(size)
    check_same_index(folder / str(size) / "indexes" / case, indexed_alone / case)
    assert np.load(indexed_alone / case / "words.missed.npy").any(), "tokens are left out, which depends on their order"


@of_each_size
def test_an_index_goes_on_with_as_many_processes(folder, records, indexed_alone, size):
    found = [record["indexes"] for record in records(size)]
    for rank, each in enumerate(found):
        assert each["broken"] == ("ValueError: " if rank == 1 else "RuntimeError: rank 1: ") + "the disk broke"
        assert each["memory"].startswith(f"ValueError: folder: got None in {size} processes; wanted a folder")
    assert f"an index that {size} processes have begun; wanted as many, and there are 1" in found[0]["alone"]
    before, after = (sum(each["blocks"][i] for each in found) for i in (0, 1))
    blocks = -(-len(worker.text()[1]) // 4)
    assert after < blocks < before + after + 1, "checkpoints were taken up"
    check_same_index(folder / str(size) / "indexes" / "parts", indexed_alone / "commonest")


@of_each_size
def test_training_on_shares_of_a_store_has_the_bits_of_whole_batches(records, size):
    for record in records(size):
        (whole, all_bytes), (divided, some_bytes) = record["shares"][False], record["shares"][True]
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(divided, whole, strict=True))
        assert some_bytes < all_bytes, "whole windows at first and for resampling, in three epochs"


def test_a_process_that_ended_is_named(folder, records):
    records(2)
    said, until = folder / "said of the lost", time.monotonic() + 120
    while not said.exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    assert re.search(r"LostPeer: rank 1 \(process \d+ on .*\) ended or did not answer, and rank 0", said.read_text())
