"""Training on a mesh of processes is training in one: the same selection, curve and weights, bitwise repeatable."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import monosem as ms
from monosem.train import checkpoint

if not torch.distributed.is_available():  # pragma: no cover, a build of PyTorch without it
    pytest.skip("this PyTorch was built without torch.distributed", allow_module_level=True)

_spec = importlib.util.spec_from_file_location("distributed_worker", Path(__file__).with_name("distributed_worker.py"))
worker = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(worker)

SHAPES = ["1x2", "2x1", "2x2", "1x4"]
CLOSE = 1e-5  # of the largest weight: sums over shards are added in another order than sums over features
of_each_shape = pytest.mark.parametrize("shape", SHAPES)


def free_port() -> str:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return str(opened.getsockname()[1])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder that both groups of processes, of 2 and of 4, have written to."""
    folder = tmp_path_factory.mktemp("mesh")
    started = []
    for size in worker.MESHES:
        port = free_port()
        started += [
            subprocess.Popen(
                [sys.executable, str(worker.__file__), str(rank), str(size), port, str(folder)],
                env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
                stdout=subprocess.DEVNULL,
                stderr=(folder / f"errors.{size}.{rank}").open("w"),
            )
            for rank in range(size)
        ]
    yield folder, started
    for process in started:
        process.kill()


@pytest.fixture(scope="module")
def mesh(runs):
    """mesh("1x2"): what each rank wrote down."""
    folder, started = runs

    failed = []

    def wait(shape):
        assert not failed, "the processes failed before"
        size = next(size for size, shapes in worker.MESHES.items() if shape in shapes)
        names = [folder / f"{shape}.{rank}.pt" for rank in range(size)]
        until = time.monotonic() + 600
        while not all(name.exists() for name in names):
            if time.monotonic() > until or any(p.poll() for p in started):
                failed.append(shape)
                raise AssertionError(_said(folder))
            time.sleep(0.05)
        for _ in range(100):  # a file may be there and not yet whole
            try:
                return [torch.load(name, weights_only=False) for name in names]
            except (RuntimeError, EOFError):
                time.sleep(0.05)
        raise AssertionError(f"{shape}: cannot be read")

    return wait


def _said(folder):
    return "\n".join(path.read_text() for path in sorted(folder.glob("errors.*")))[-4000:]


@pytest.fixture(scope="module")
def alone():
    """alone(case): (autoencoder, curve) of one process."""
    known = {}

    def run(case, steps=None):
        if (case, steps) not in known:
            trainer, curve = worker.trained(case, steps=steps)
            known[case, steps] = trainer, curve
        return known[case, steps]

    return run


def far(ours, theirs):
    return float((ours - theirs).abs().max() / theirs.abs().max())


def whole(records, name, shape):
    """Parameters put together from the first feature group: rows are those whose number differs from rank to rank."""
    across = int(shape.split("x")[1])
    parts = list(zip(*(record[name] for record in records[:across]), strict=True))
    return [torch.cat(each) if len(each[0]) and each[0].shape[0] != worker.D else each[0] for each in parts]


@of_each_shape
def test_selection_is_that_of_one_process_with_ties(mesh, shape):
    for kind in ("topk", "abs_topk", "batch_topk"):
        x, sae = worker.tied(kind)
        for again in range(3):
            expected = worker.chosen(sae, x)
            for record in mesh(shape):
                assert torch.equal(record["selections"][f"{kind} {again}"], expected), (kind, again)


@pytest.mark.parametrize(("shape", "case"), [(shape, case) for shape in SHAPES for case in worker.cases(shape)])
def test_weights_and_curve_are_those_of_one_process(runs, mesh, alone, shape, case):
    trainer, curve = alone(case)
    for record in mesh(shape):
        rows = torch.tensor(record["curves"][case])
        if len(rows):  # the first rank logs
            torch.testing.assert_close(rows, torch.tensor(curve), rtol=CLOSE, atol=1e-7)
    result = ms.load(runs[0] / shape / case)
    expected = trainer.dictionary()
    assert result.cfg == expected.cfg
    for (name, ours), theirs in zip(result.state_dict().items(), expected.state_dict().values(), strict=True):
        bound = 2e-2 if "averaged" in case else CLOSE  # int8 moments: a rounding step where the random one differs
        assert far(ours, theirs) < bound, name
    if "averaged" in case:
        assert (runs[0] / shape / case / "ema" / "cfg.json").is_file()


def test_features_died_and_were_restarted(alone):
    assert alone("topk resampled")[0].learners[0].resampled > 0
    assert alone("relu resampled")[0].learners[0].resampled > 0
    assert any(row[4] > 0 for row in alone("topk")[1]), "AuxK had something to do"


@pytest.mark.parametrize("shape", worker.LONGER)
def test_weights_after_200_steps(mesh, alone, shape):
    expected = list(alone("topk", worker.LONG)[0].learners[0].sae.parameters())
    for ours, theirs in zip(whole(mesh(shape), "long", shape), expected, strict=True):
        assert far(ours, theirs.detach()) < CLOSE


@of_each_shape
def test_replicas_have_the_same_bits(mesh, shape):
    records, across = mesh(shape), int(shape.split("x")[1])
    for rank, record in enumerate(records):
        same = records[rank % across]
        assert all(torch.equal(a, b) for a, b in zip(record["long"], same["long"], strict=True))
        assert torch.equal(record["long"][3], records[0]["long"][3]), "b_dec is on every rank"


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if "topk averaged" in worker.cases(shape)])
def test_resume_is_bitwise(runs, mesh, shape):
    """From step 8 to 12, in the same processes; the result before is that of the run which never stopped."""
    saved = checkpoint.load(runs[0] / shape / "topk averaged", 12).tensors
    for ours, name in zip(whole(mesh(shape), "resumed", shape), ("W_enc_rows", "W_dec", "b_enc", "b_dec"), strict=True):
        assert torch.equal(ours, saved[f"0.sae.{name}"])


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if "topk" in worker.cases(shape)])
def test_a_checkpoint_is_read_by_one_process(runs, mesh, alone, tmp_path, shape):
    mesh(shape)
    shutil.copytree(runs[0] / shape / "topk", tmp_path / "run")
    trainer, _ = worker.trained("topk", tmp_path / "run", resume=8)
    assert trainer.steps_done == 12
    for ours, theirs in zip(
        trainer.learners[0].sae.parameters(), alone("topk")[0].learners[0].sae.parameters(), strict=True
    ):
        assert far(ours.detach(), theirs.detach()) < CLOSE


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_checkpoint_is_told(runs, mesh, tmp_path, damage):
    mesh("1x2")
    shutil.copytree(runs[0] / "1x2" / "topk", tmp_path / "run")
    file = next((tmp_path / "run" / "ckpt-12" / "tensors").glob("__1_*"))
    file.unlink() if damage == "gone" else file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"ckpt-12.*damaged.*tensors/__1_.*resume=8"):
        checkpoint.load(tmp_path / "run", 12)


@of_each_shape
def test_initial_weights_do_not_depend_on_the_number_of_processes(mesh, shape):
    for kind in ("topk", "relu", "transcoder"):
        for ours, theirs in zip(mesh(shape)[0]["initial"][kind], mesh("2x1")[0]["initial"][kind], strict=True):
            assert torch.equal(ours, theirs)
            assert len(ours) == worker.F
    encoder, decoder = mesh(shape)[0]["initial"]["topk"]
    assert torch.equal(encoder, decoder)
    torch.testing.assert_close(decoder.norm(dim=1), torch.ones(worker.F))
    assert abs(float((decoder @ decoder.T).fill_diagonal_(0).mean())) < 0.02, "directions are independent"
    encoder, decoder = mesh(shape)[0]["initial"]["relu"]
    assert encoder.abs().max() <= worker.D**-0.5
    assert encoder.abs().max() > 0.9 * worker.D**-0.5


@of_each_shape
def test_batches_that_leave_ranks_without_tokens(mesh, shape):
    sae = worker.MAKE["topk"]()
    trainer = ms.Trainer(sae, worker.CONFIG, progress=False)
    for tokens in (1, 5, 2, 3):
        trainer.step(next(iter(worker.source(tokens))))
    for record in mesh(shape):
        parts, rows = record["few"]
        for ours, theirs in zip(parts, sae.parameters(), strict=True):
            theirs = theirs.detach()[rows] if len(theirs) == worker.F else theirs.detach()
            assert far(ours, theirs) < CLOSE


@of_each_shape
def test_what_is_refused_is_named(mesh, shape):
    for record in mesh(shape):
        said = record["errors"]
        assert "hierarchical_topk" in said["hierarchical_topk"]
        assert "group_max" in said["group_max"]
        assert "rank 1 has other weights" in said["seed"]
        assert "config: rank 1 has other settings" in said["config"]
        assert "train.lr is" in said["config"]
        assert "mesh: got 3 (data) × 5 (features) = 15 for" in said["mesh"]
        assert "mesh: got str; wanted init_device_mesh" in said["no mesh"]
        assert "batch 0: rank 1 has" in said["batch"]
        assert "batch 0: rank 1 has 11 tokens" in said["tokens"]
        for method in ("encode", "loss"):
            assert said[method].startswith(f"{method}: this process has features")
        assert "mesh: got None for a topk" in said["without"]


def test_bytes_that_are_sent(mesh):
    """Counted where they are sent, against the model of docs/scaling.md.

    A reconstruction this small is sent whole to each of the others, not in halves. Beside the model there are numbers
    of a few bytes, and the gradient of b_dec.
    """
    for shape in ("1x2", "1x4"):
        ranks, steps = int(shape.split("x")[1]), worker.LONG if shape in worker.LONGER else 12
        n, k, d = -(-worker.TOKENS // ranks) * ranks, 4, worker.D  # each rank compares as many tokens
        model = (ranks - 1) * (n * (4 * k + 4) / ranks + 4 * worker.TOKENS * d)
        for record in mesh(shape):
            beside = record["sent"]["features"] / steps - model
            assert 0 < beside < (ranks - 1) * (4 * d + 200), shape
