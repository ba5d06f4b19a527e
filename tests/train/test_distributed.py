"""Training on a mesh of processes is training in one: the same selection, curve and weights, bitwise repeatable."""

import importlib.util
import re
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch
from several_processes import records, started

import monosem as ms
from monosem.train import checkpoint
from monosem.train.distributed import cost


def module(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    sys.modules[name] = made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


worker, extra = module("distributed_worker"), module("distributed_extra")

SHAPES = ["1x2", "2x1", "2x2", "1x4"]
CLOSE = 1e-5  # of the largest weight: sums over shards are added in another order than sums over features
of_each_shape = pytest.mark.parametrize("shape", SHAPES)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder that the processes write to, and the process that started them."""
    with started(str(worker.__file__), tmp_path_factory.mktemp("mesh")) as made:
        yield made


@pytest.fixture(scope="module")
def mesh(runs):
    """mesh("1x2"): what each rank wrote down."""
    known = {}

    def wait(shape):
        if shape not in known:
            size = next(size for size, shapes in worker.MESHES.items() if shape in shapes)
            known[shape] = records(runs, shape, size, seconds=900)
        return known[shape]

    return wait


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


def whole(shards):
    """The parameters of all features by name, from those of each rank of the first tokens (``worker.weights``)."""
    return {
        name: torch.cat([shard[name][0] for shard in shards]) if per_feature else first
        for name, (first, per_feature) in shards[0].items()
    }


def of_first_tokens(records, shape):
    return records[: int(shape.split("x")[1])]


def check_close(shards, sae, bound=CLOSE):
    for name, theirs in sae.named_parameters():
        assert far(whole(shards)[name], theirs.detach()) < bound, name


@of_each_shape
def test_selection_is_that_of_one_process_with_ties(mesh, shape):
    for kind in ("topk", "abs_topk", "batch_topk"):
        x, sae = worker.tied(kind)
        for again in range(3):
            expected = worker.chosen(sae, x)
            for record in mesh(shape):
                assert torch.equal(record["selections"][f"{kind} {again}"], expected), (kind, again)


@pytest.mark.parametrize(("shape", "case"), [(shape, case) for shape in SHAPES for case in worker.cases(shape)])
def test_weights_and_curve_are_those_of_one_process(mesh, alone, shape, case):
    trainer, curve = alone(case)
    records = mesh(shape)
    bound = 2e-2 if case in worker.ROUNDED else CLOSE  # moments of few bits: one rounded the other way
    torch.testing.assert_close(
        torch.tensor(records[0]["curves"][case]), torch.tensor(curve), rtol=10 * bound, atol=1e-7
    )
    check_close([record["weights"][case] for record in of_first_tokens(records, shape)], trainer.dictionary(), bound)


@of_each_shape
def test_several_dictionaries_on_the_same_batches(mesh, shape):
    theirs = extra.several()
    for index, expected in enumerate(theirs):
        shards = [record["several"][index] for record in of_first_tokens(mesh(shape), shape)]
        for name, parameter in whole(shards).items():
            assert far(parameter, expected[name][0]) < CLOSE, (index, name)


def test_the_result_is_one_dictionary(runs, mesh):
    """Written by all ranks into one file, which one process reads; weights, and averages of them."""
    for shape, case in (("1x2", "topk"), ("2x2", "topk averaged")):
        shards = [record["weights"][case] for record in of_first_tokens(mesh(shape), shape)]
        result = ms.load(runs[0] / shape / case)
        assert result.cfg == worker.MAKE["topk"]().cfg
        for name, parameter in result.named_parameters():
            assert torch.equal(parameter, whole(shards)[name])
    averaged = ms.load(runs[0] / "2x2" / "topk averaged" / "ema")
    assert far(averaged.W_dec.detach(), result.W_dec.detach()) > 0


def test_features_died_and_were_restarted(alone):
    for kind in ("topk", "relu", "relu_free"):
        assert alone(f"{kind} resampled")[0].learners[0].resampled > 0
    assert any(row[4] > 0 for row in alone("topk")[1]), "AuxK had something to do"


@pytest.mark.parametrize("shape", worker.LONGER)
def test_weights_after_200_steps(mesh, alone, shape):
    shards = [record["long"] for record in of_first_tokens(mesh(shape), shape)]
    check_close(shards, alone("topk", worker.LONG)[0].dictionary())


@of_each_shape
def test_replicas_have_the_same_bits(mesh, shape):
    records, across = mesh(shape), int(shape.split("x")[1])
    for rank, record in enumerate(records):
        for name, (parameter, per_feature) in record["long"].items():
            same = records[rank % across if per_feature else 0]
            assert torch.equal(parameter, same["long"][name][0])


def test_resume_is_bitwise(mesh):
    """From step 8 to 12, as the run went that never stopped."""
    for record in mesh("2x2"):
        for name, (parameter, _) in record["resumed"].items():
            assert torch.equal(parameter, record["weights"]["topk averaged"][name][0])


@pytest.mark.parametrize("shape", ["1x2", "2x1"])
def test_a_checkpoint_is_read_by_one_process(runs, mesh, alone, tmp_path, shape):
    mesh(shape)
    shutil.copytree(runs[0] / shape / "topk", tmp_path / "run")
    trainer, _ = worker.trained("topk", tmp_path / "run", resume=8)
    assert trainer.steps_done == 12
    for ours, theirs in zip(trainer.dictionary().parameters(), alone("topk")[0].dictionary().parameters(), strict=True):
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
    check_close([record["few"] for record in of_first_tokens(mesh(shape), shape)], sae)


@of_each_shape
def test_what_is_refused_is_named(mesh, shape):
    for record in mesh(shape):
        said = record["errors"]
        if (across := int(shape[-1])) > 1:
            assert f"mesh: got {across} shards of features for a group_max of 3 groups" in said["group_max"]
        else:
            assert said["group_max"] is None
        assert "rank 1 has other weights" in said["seed"]
        assert "config: rank 1 has other settings" in said["config"]
        assert "train.lr is" in said["config"]
        assert re.match(r"version: rank 1 has other versions than rank 0: monosem is '.*\.1' there", said["version"])
        assert "mesh: got 3 (data) × 5 (features) = 15 for" in said["mesh"]
        assert "mesh: got str; wanted init_device_mesh" in said["no mesh"]
        assert "batch 0: rank 1 has" in said["batch"]
        assert "batch 0: rank 1 has 11 tokens" in said["tokens"]
        for method in ("encode", "loss"):
            assert said[method].startswith(f"{method}: this process has features")
        assert "mesh: got None for a topk" in said["without"]


@pytest.mark.parametrize(("shape", "before", "case"), [(s, *run) for s, runs in extra.RESUMED.items() for run in runs])
def test_resume_by_another_number_of_processes(runs, mesh, alone, shape, before, case):
    """One to two, four to two, two to four; two to one is ``test_a_checkpoint_is_read_by_one_process``."""
    records = changed(runs, mesh, shape)
    bound = 2e-2 if case in worker.ROUNDED else CLOSE
    check_close(
        [record["resumed"][before, case] for record in of_first_tokens(records, shape)],
        alone(case)[0].dictionary(),
        bound,
    )


@pytest.mark.parametrize(("shape", "before"), [(s, run) for s, runs in extra.STARTED.items() for run in runs])
@pytest.mark.parametrize("moments", [False, True])
def test_a_run_begins_with_the_weights_of_another(runs, mesh, shape, before, moments):
    """As in one process: from the last checkpoint, of any number of processes, with Adam's moments or without."""
    records = changed(runs, mesh, shape)
    theirs = extra.started(runs[0] / before / "topk", moments).dictionary()
    check_close([record["started"][before, moments] for record in of_first_tokens(records, shape)], theirs)


def test_a_run_begins_with_a_result(runs, mesh):
    for shape in extra.STARTED:
        records = changed(runs, mesh, shape)
        theirs = extra.started(runs[0] / f"result.{shape}", False).dictionary()
        check_close([record["started"]["result"] for record in of_first_tokens(records, shape)], theirs)


def test_what_is_refused_of_folders_is_named(runs, mesh):
    for shape in extra.STARTED:
        for record in changed(runs, mesh, shape):
            said = record["refused"]
            assert (
                f"W_enc_rows [{worker.F}, {worker.D}]; wanted topk with [{worker.F + 1}, {worker.D}]" in said["d_sae"]
            )
            assert "are kept in fp32, this run keeps int8" in said["moments"]
            for name in ("folder", "start"):
                assert re.match(r"folder: rank 1 has other checkpoints in '.*seen by .*' than rank 0: \[\]", said[name])
                assert "name a folder of a file system that all see" in said[name]


def test_what_one_process_cannot_read_or_write_is_told_in_all(runs, mesh):
    for rank, record in enumerate(changed(runs, mesh, "1x2")):
        said = record["refused"]
        assert re.match(r".*not here.npy" if rank == 1 else r"rank 1: .*not here.npy", said["text"])
        words, steps = said["disk"]
        assert re.match(r"rank 1 could not write the checkpoint '.*ckpt-8' \(.*No space left", words)
        assert steps == [4]


def changed(runs, mesh, shape):
    """What each rank of a mesh wrote down after it went on with runs of others."""
    mesh(shape)
    names = [runs[0] / f"changed.{shape}.{rank}.pt" for rank in range(len(mesh(shape)))]
    return [torch.load(written(runs, name), weights_only=False) for name in names]


def written(runs, path):
    """A file of the processes, once it is there."""
    folder, started = runs
    until = time.monotonic() + 300
    while not path.exists():
        failed = sorted(folder.glob("failed.*"))
        assert not failed and started.poll() is None and time.monotonic() < until, [f.read_text() for f in failed]
        time.sleep(0.05)
    return path


def test_a_process_that_hangs_is_named(runs):
    """Alive, but silent. Rank 0 exchanges nothing with it in a step: it learns of it from the others."""
    for rank in range(3):
        seconds, process, said = torch.load(written(runs, runs[0] / f"hung.{rank}"), weights_only=False)
        assert re.match(rf"rank 3 \(process {process} on .*\) ended or did not answer, and rank {rank} cannot", said)
        assert extra.HANGS <= seconds < extra.HANGS + 8


def test_a_kill_while_a_checkpoint_is_written(runs, mesh):
    """The last whole one stands, and the run that resumes from it ends as the one that was not killed."""
    said, steps = torch.load(written(runs, runs[0] / "killed.said"), weights_only=False)
    assert re.match(r"rank 1 \(process \d+ on .*\) ended or did not answer, and rank 0 cannot", said)
    assert steps == [4]
    for rank, record in enumerate(mesh("1x2")):
        resumed = torch.load(written(runs, runs[0] / f"restarted.{rank}"), weights_only=False)
        for name, (parameter, _) in record["weights"]["topk"].items():
            assert torch.equal(parameter, resumed[name][0])


def test_a_process_that_ended_is_named(runs, mesh):
    mesh("2x1")
    said, until = runs[0] / "lost", time.monotonic() + 120
    while not said.exists() or not said.read_text():
        assert time.monotonic() < until
        time.sleep(0.05)
    assert re.search(
        r"^rank 1 \(process \d+ on .*\) ended or did not answer, and rank 0 cannot go on", said.read_text()
    )


@of_each_shape
@pytest.mark.parametrize("aux", [False, True])
def test_bytes_that_are_sent(mesh, shape, aux):
    """Counted where they are sent, on all axes, against the model of docs/scaling.md.

    Beside the model there are numbers of a few bytes, the gradient of b_dec, and which features fired.
    """
    rows, across = map(int, shape.split("x"))
    counted = extra.COUNTED
    sizes = cost.Sizes(counted["n"], counted["d"], counted["k"], counted["aux_k"] * aux)
    for record in mesh(shape):
        for width in extra.WIDTHS:
            assert record["bytes"][width, aux] == pytest.approx(cost.on_mesh(sizes, rows, across), rel=0.05), width


@of_each_shape
def test_bytes_do_not_grow_with_the_features(mesh, shape):
    """Four times as many features: only the numbers of those that fired, which are at most N·K, may be more."""
    narrow, wide = extra.WIDTHS
    for record in mesh(shape):
        sent = record["bytes"]
        assert sent[wide, False] - sent[narrow, False] <= 4 * extra.COUNTED["n"] * extra.COUNTED["k"]
        assert sent[wide, False] < 1.03 * sent[narrow, False]


@of_each_shape
def test_metrics_are_exchanged_once_per_row(mesh, shape):
    """Their sum, and before it whether all are numbers; and one process has a progress bar."""
    for rank, record in enumerate(mesh(shape)):
        found = record["exchanges"]
        assert found[1] - found[worker.CONFIG.steps] == 2 * (worker.CONFIG.steps - 1)
        assert found["bar"] == (rank == 0)
        assert found["times"]["exchange"] > 0
        assert found["times"]["encode"] > 0


def test_the_table_of_the_document_is_the_model():
    sizes = cost.Sizes(8192, 4096, 64)
    text = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if re.match(r"\| [\d,]+ \| [\d,]+ \|", line)]
    assert len(rows) == 6
    for row in rows:
        ranks, features = (int(cell.replace(",", "")) for cell in row[:2])
        sent = [cost.over_features(sizes, ranks), cost.over_tokens(sizes, ranks)]
        sent += [cost.dense_gradients(features, sizes, ranks), cost.sharded_weights(features, sizes, ranks)]
        for cell, expected in zip(row[2:], [*sent, cost.held(features, sizes, ranks)], strict=True):
            number, unit = cell.split()
            assert float(number) * {"MB": 1e6, "GB": 1e9, "TB": 1e12}[unit] == pytest.approx(expected, rel=5e-3), row
