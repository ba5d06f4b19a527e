"""An index of known activations: every figure against the dense ones, on disk as in memory, interrupted or not."""

import json

import numpy as np
import pytest
import torch

from monosem.analysis.index import INTERVALS, IndexSettings, build_index, open_index
from monosem.analysis.index import build as module
from monosem.analysis.index.collector import Collector
from monosem.analysis.inputs import Subject
from monosem.analysis.neuron_basis import NeuronBasis
from monosem.analysis.scan import Block

SETTINGS = IndexSettings(top=4, random=500, each=50, slots=30, contexts=3)


@pytest.fixture
def subject(exact, model, hook):
    return Subject(exact, model, hook)


@pytest.fixture
def dense(subject, rows):
    """[rows, T, F], zero on BOS."""
    f = subject.sae.encode(subject.model.E[torch.from_numpy(rows.tokens.astype(np.int64))]).to_dense().detach()
    f[:, 0] = 0
    return f


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_every_figure_agrees_with_the_dense_code(subject, rows, dense, tmp_path, where):
    marks = {"is x": rows.tokens == 11, "none": np.zeros_like(rows.tokens)}
    folder = tmp_path / "index" if where == "disk" else None
    index = build_index(subject, rows, folder, settings=SETTINGS, marks=marks, progress=False)
    assert index.tokens == 110 and index.sources == rows.sources and index.d_sae == 14
    assert index.counts.tolist() == (dense > 0).sum((0, 1)).tolist()
    assert index.density.tolist() == (index.counts.double() / 110).tolist()
    source = torch.from_numpy(rows.source.astype(np.int64))
    for s in range(3):
        assert index.source_counts[:, s].tolist() == (dense[source == s] > 0).sum(0).tolist()
    flat = dense[:, 1:].flatten(0, 1).double()
    x = subject.model.E[torch.from_numpy(rows.tokens[:, 1:].astype(np.int64))].flatten(0, 1).double()
    r = torch.corrcoef(torch.cat([flat, x], 1).T)[:12, 14:]
    assert torch.allclose(index.neuron_correlations(torch.arange(12)), r, atol=1e-5)  # sums of fp32 products
    for feature in range(14):
        mine = dense[..., feature]
        assert float(index.maximum[feature]) == float(mine.max())
        top = index.top(feature)
        best_of_rows = mine.max(1).values.sort(descending=True).values
        assert [e.value for e in top] == [v for v in best_of_rows[:4].tolist() if v > 0]
        assert len({e.row for e in top}) == len(top)
        assert all(float(mine[e.row, e.position]) == e.value for e in [*top, *index.random(feature)])
        assert sorted(e.value for e in index.random(feature)) == sorted(mine[mine > 0].tolist())
        everything = []
        for i in range(INTERVALS):
            low, high = index.bounds(feature, i)
            examples = index.interval(feature, i)
            assert all(low < e.value and (e.value <= high or i == 10) for e in examples)
            everything += examples
        assert sorted(e.value for e in everything) == sorted(mine[mine > 0].tolist())
        histogram = index.histogram(feature)
        assert histogram.counts.sum(1).tolist() == [int(index.source_counts[feature, s]) for s in histogram.columns]
        assert histogram.upper >= float(mine.max())
        marked = index.histogram(feature, marks=True)
        on_x = mine[torch.from_numpy(rows.tokens == 11)]
        assert marked.columns == ["is x", "none"]
        assert marked.counts.sum(1).tolist() == [int((on_x > 0).sum()), 0]
        for t in index.top_tokens(feature):
            of_token = mine[torch.from_numpy(rows.tokens == t.token)]
            assert t.count == int((of_token > 0).sum()) and t.missed == 0
            assert t.mean == pytest.approx(float(of_token[of_token > 0].mean()), rel=1e-5)
        both = ((dense > 0) & (mine > 0)[..., None]).sum((0, 1))
        assert {p.feature: p.tokens for p in index.coactive(feature)} == {
            g: int(n) for g, n in enumerate(both.tolist()) if n and g != feature
        }


def test_a_stored_index_answers_like_the_one_in_memory(subject, rows, tmp_path):
    built = build_index(subject, rows, tmp_path, settings=SETTINGS, notes={"text": "words"}, progress=False)
    memory = build_index(subject, rows, settings=SETTINGS, progress=False)
    opened = open_index(tmp_path, subject)
    assert opened.meta["notes"] == {"text": "words"} and not (tmp_path / "unfinished.safetensors").exists()
    assert np.array_equal(opened.rows.tokens, rows.tokens) and np.array_equal(opened.rows.source, rows.source)
    for f in range(14):
        for ask in ("top", "random", "top_tokens", "coactive", "spectrum"):
            assert getattr(built, ask)(f) == getattr(opened, ask)(f) == getattr(memory, ask)(f)
    with pytest.raises(ValueError, match="wanted 0 to 13"):
        opened.top(14)
    with pytest.raises(ValueError, match="wanted 0 to 10"):
        opened.interval(0, 11)


class Killed(Exception):
    pass


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix == ".npy"}


def test_codes_hold_every_activation(subject, rows, dense, tmp_path, monkeypatch):
    monkeypatch.setattr("monosem.analysis.index.codes._CHUNK", 100)
    codes = build_index(subject, rows, tmp_path, settings=SETTINGS, progress=False).codes
    for feature in range(14):
        places, values = codes.of(feature)
        mine = dense[..., feature].flatten()
        assert places.tolist() == mine.nonzero().flatten().tolist()
        assert values.tolist() == mine[mine > 0].tolist()
        assert codes.window(feature, 3, 2, 9).tolist() == dense[3, 2:9, feature].tolist()
    assert sorted(p.suffix for p in tmp_path.iterdir() if "unfinished" in p.name) == []
    memory = build_index(subject, rows, settings=SETTINGS, progress=False)
    with pytest.raises(ValueError, match="does not hold the activations"):
        memory.codes  # noqa: B018


@pytest.mark.parametrize("wide", [False, True])
def test_a_killed_build_resumes_to_the_same_bits(lossy, model, hook, rows, tmp_path, monkeypatch, wide):
    if wide:  # partners in bounded memory, as above 16,384 features
        monkeypatch.setattr("monosem.analysis.index.cooccurrence._NARROW", 0)
        monkeypatch.setattr("monosem.analysis.index.cooccurrence.EXACT_BYTES", 0)
    subject = Subject(lossy, model, hook)
    settings = IndexSettings(top=2, random=3, each=2, slots=2, contexts=2)
    whole = tmp_path / "whole"
    build_index(subject, rows, whole, settings=settings, checkpoint_seconds=0, progress=False)

    original = module.Saver.__call__

    def killed(self, done, block):
        self.due = 0 if done < 8 else float("inf")  # a checkpoint behind every block, but not behind the last
        original(self, done, block)
        if done == 8:
            raise Killed

    cut = tmp_path / "cut"
    monkeypatch.setattr(module.Saver, "__call__", killed)
    with pytest.raises(Killed):
        build_index(subject, rows, cut, settings=settings, checkpoint_seconds=0, progress=False)
    monkeypatch.setattr(module.Saver, "__call__", original)
    with pytest.raises(FileNotFoundError, match="unfinished"):
        open_index(cut)
    read = []
    monkeypatch.setattr(module.Collector, "update", _counting(module.Collector.update, read))
    build_index(subject, rows, cut, settings=settings, progress=False)
    assert len(read) == 2  # 10 rows, 2 a block, 6 done
    assert contents(cut) == contents(whole)


def _counting(update, calls):
    def counted(self, block):
        calls.append(block)
        update(self, block)

    return counted


def test_memory_does_not_grow_with_the_text(monkeypatch):
    monkeypatch.setattr("monosem.analysis.index.cooccurrence.EXACT_BYTES", 0)  # as above 16,384 features
    monkeypatch.setattr("monosem.analysis.index.cooccurrence._NARROW", 0)
    sources = [f"s{i}" for i in range(24)]
    collector = Collector(1000, 512, 50_000, sources, (10_000, 256), IndexSettings())
    before = {name: array.shape for name, array in collector.arrays().items()}
    generator = torch.Generator().manual_seed(0)
    for block in range(4):
        on = torch.rand(2, 255, 30, generator=generator)
        tokens = torch.randint(0, 50_000, (2, 256), generator=generator)
        at = torch.arange(510).repeat_interleave(30)
        collector.update(
            Block(
                row=torch.tensor([2 * block, 2 * block + 1]),
                tokens=tokens,
                source=torch.randint(0, 24, (510,), generator=generator),
                where=torch.arange(512).view(2, 256)[:, 1:].flatten(),
                x=torch.rand(510, 512, generator=generator),
                target=None,
                reconstruction=None,
                values=on.flatten(),
                features=torch.rand(510, 1000, generator=generator).topk(30).indices.flatten(),
                at=at,
                negative=(at[:0], at[:0]),
                losses=None,
            )
        )
    arrays = collector.arrays()
    assert {name: array.shape for name, array in arrays.items()} == before
    size = sum(array.numel() * array.element_size() for array in arrays.values())
    assert size / 1000 * 131_072 < 1.3e9  # bytes at 131,072 features


def test_another_dictionary_is_refused(subject, lossy, rows, tmp_path):
    build_index(subject, rows, tmp_path, settings=SETTINGS, progress=False)
    other = Subject(lossy, subject.model, subject.hook_name)
    with pytest.raises(ValueError, match="index of another dictionary: d_sae is 14 there and 20 here"):
        open_index(tmp_path, other)
    with pytest.raises(ValueError, match="is of something else"):
        build_index(other, rows, tmp_path, settings=SETTINGS, progress=False)
    with torch.no_grad():
        subject.sae.b_enc[0] += 1
    with pytest.raises(ValueError, match="another dictionary: dictionary is"):
        open_index(tmp_path, subject)


def test_neurons_can_be_indexed(model, hook, rows):
    index = build_index(Subject(NeuronBasis(6), model, hook), rows, settings=SETTINGS, progress=False)
    x = model.E[torch.from_numpy(rows.tokens[:, 1:].astype(np.int64))]
    assert index.counts.tolist() == (x > 0).sum((0, 1)).tolist()
    assert index.meta["kind"] == "neurons"


def test_a_damaged_index_is_reported(subject, rows, tmp_path):
    build_index(subject, rows, tmp_path, settings=SETTINGS, progress=False)
    (tmp_path / "maximum.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match=r"maximum\.npy.*cut short or altered"):
        open_index(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        open_index(tmp_path)
    with pytest.raises(FileNotFoundError, match="monosem index"):
        open_index(tmp_path / "none")


def test_settings_are_checked():
    with pytest.raises(ValueError, match="bins: got 16"):
        IndexSettings(bins=16)
    with pytest.raises(ValueError, match="top: got 0"):
        IndexSettings(top=0)


def test_disk_space_is_estimated_before_reading(subject, rows, tmp_path, monkeypatch, capsys):
    built = build_index(subject, rows, tmp_path / "enough", settings=SETTINGS, progress=True)
    assert "the index takes about" in capsys.readouterr().err
    there = sum(f.stat().st_size for f in (tmp_path / "enough").glob("*.npy"))
    usage = type("Usage", (), {"free": there})  # what is left at the end; the checkpoint needs more
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    read = []
    monkeypatch.setattr(module._Run, "read", lambda *_: read.append(1))
    with pytest.raises(OSError, match=r"folder: .*the index takes about .* of disk, .* are free\. Free some space"):
        build_index(subject, rows, tmp_path / "full", settings=SETTINGS, progress=False)
    assert not read and built.tokens == 110
