"""Loggers of W&B, Trackio and TensorBoard, with stand-ins for the packages."""

import sys
import types

import pytest
import stand_in_trackers

import monosem as ms
from monosem.train.loggers import JsonlLogger
from monosem.train.trackers import TensorBoardLogger, TrackioLogger, WandbLogger, trackers


@pytest.fixture
def made(monkeypatch):
    monkeypatch.delenv("WANDB_DIR", raising=False)
    return stand_in_trackers.install(monkeypatch)


def follow(log, start, steps):
    log.start(start)
    for step in steps:
        log.log(step, {"loss": 1 / step})
    log.close()


def test_wandb_takes_the_options_of_init(made):
    follow(WandbLogger(project="p", id="x"), 7, [8])
    follow(WandbLogger(project="p"), 0, [8])
    named, new = made["wandb"]
    assert named.options == {"resume": "allow", "allow_val_change": True, "project": "p", "id": "x"}
    assert new.options == {"project": "p"} and named.rows == [(8, {"loss": 1 / 8})] and named.finished


@pytest.mark.parametrize(("name", "logger"), [("wandb", WandbLogger), ("trackio", TrackioLogger)])
def test_a_resumed_run_goes_on_with_its_curve_and_repeats_no_step(made, tmp_path, name, logger):
    make = lambda: logger(tmp_path, project="p", name="first")
    follow(make(), 0, [10, 20, 30])
    follow(make(), 20, [30, 40])  # the checkpoint was of step 20
    follow(make(), 0, [10])  # started anew
    runs = made[name]
    assert [run.steps for run in runs] == [[10, 20, 30], [40], [10]] and all(run.finished for run in runs)
    key = "id" if name == "wandb" else "name"
    first, resumed, anew = [run.options[key] for run in runs]
    assert first == resumed != anew and all(run.options["resume"] == "allow" for run in runs)
    assert runs[0].options["project"] == "p" and runs[0].options["name"].startswith("first")


def test_a_lost_id_begins_a_new_curve(made, tmp_path):
    follow(WandbLogger(tmp_path), 0, [10])
    (tmp_path / "wandb.json").write_text('{"id')
    follow(WandbLogger(tmp_path), 10, [20])
    assert made["wandb"][0].options["id"] != made["wandb"][1].options["id"] and made["wandb"][1].steps == [20]


def test_wandb_writes_to_the_folder_unless_told(made, tmp_path, monkeypatch):
    follow(WandbLogger(tmp_path), 0, [])
    monkeypatch.setenv("WANDB_DIR", "elsewhere")
    follow(WandbLogger(tmp_path), 0, [])
    assert [run.options.get("dir") for run in made["wandb"]] == [str(tmp_path), None]


def test_tensorboard(made):
    follow(TensorBoardLogger("runs/a", {"lr": 0.1}), 7, [8])
    (writer,) = made["tensorboard"]
    assert (writer.folder, writer.purge_step, writer.closed) == ("runs/a", 8, True)
    assert writer.rows == [(8, "loss", 1 / 8)] and writer.text == {"config": (7, '    {\n      "lr": 0.1\n    }\n')}


def test_a_run_logs_the_same_rows_to_all(made, make, config, source, tmp_path):
    class Keep(JsonlLogger):
        def log(self, step, metrics):
            rows.append((step, dict(metrics)))

    rows: list = []
    loggers = trackers(["wandb", "trackio", "tensorboard", "wandb"], tmp_path, "p", "n", {"lr": 1})
    trainer = ms.Trainer(make("topk"), config(), tmp_path, loggers=[Keep(tmp_path / "x"), *loggers], progress=False)
    trainer.fit(source())
    (wandb,), (trackio,), (board,) = made["wandb"], made["trackio"], made["tensorboard"]
    assert wandb.rows == trackio.rows == rows and [step for step, _ in rows] == [5, 10, 12]
    assert board.rows == [(step, name, value) for step, row in rows for name, value in row.items()]
    assert wandb.options["config"] == trackio.options["config"] == {"lr": 1}


def test_a_tracker_that_cannot_begin_ends_the_run_before_it_trains(monkeypatch, make, config, source, tmp_path):
    def init(**options):
        raise TypeError("no key")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    with pytest.raises(
        RuntimeError, match=r"wandb: its init failed \(no key\). Run `wandb login` first, or set WANDB_"
    ):
        ms.Trainer(make("topk"), config(), tmp_path, loggers=[WandbLogger(tmp_path)], progress=False).fit(source())
    assert not list(tmp_path.glob("ckpt-*"))


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard"])
def test_missing_packages_are_named(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"log: got '{name}'; wanted .*`pip install 'monosem\[{name}\]'`"):
        trackers([name], "x", "p", "n", {})
