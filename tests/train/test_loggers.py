import json

import pytest

import monosem as ms
from monosem.train.loggers import JsonlLogger


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_jsonl_has_no_repeated_step_and_no_cut_line_after_a_resume(tmp_path):
    path = tmp_path / "deep" / "metrics.jsonl"
    log = JsonlLogger(path)
    log.start(0)
    for step in (10, 20, 30):
        log.log(step, {"loss": step / 3})
    assert len(rows(path)) == 3  # on disk at once
    log.close()
    with path.open("a") as cut:
        cut.write('{"step": 40, "lo')
    log = JsonlLogger(path)
    log.start(20)
    log.log(30, {"loss": 1.0})
    log.close()
    assert [row["step"] for row in rows(path)] == [10, 20, 30]
    assert rows(path)[2]["loss"] == 1.0 and rows(path)[0]["loss"] == 10 / 3


def test_rows_of_metrics_of_a_run(make, config, source, tmp_path):
    ms.Trainer(make("topk"), config(clip=1.0), tmp_path, progress=False).fit(source())
    got = rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in got] == [5, 10, 12]
    assert [row["tokens"] for row in got] == [320, 640, 768]
    expected = {"loss", "mse", "sparsity", "aux", "l0", "dead", "lr", "grad_norm", "tokens_per_second", "seconds"}
    assert expected <= set(got[0])


def test_a_row_is_the_mean_since_the_last_row(make, config, source):
    class Keep:
        def __init__(self):
            self.events = []

        def start(self, step):
            self.events.append(("start", step))

        def log(self, step, metrics):
            self.events.append((step, metrics))

        def close(self):
            self.events.append(("close",))

    every, mean = Keep(), Keep()
    ms.Trainer(make("relu"), config(log_every=1), loggers=[every], progress=False).fit(source())
    trainer = ms.Trainer([make("relu"), make("topk")], config(log_every=4), loggers=[mean], progress=False)
    trainer.fit(source())
    assert every.events[0] == ("start", 0) and every.events[-1] == ("close",) and len(every.events) == 14
    first = sum(row["loss"] for _, row in every.events[1:5]) / 4
    assert mean.events[1][1]["0/loss"] == pytest.approx(first, rel=1e-12)
    assert mean.events[1][1]["1/l0"] == pytest.approx(4, abs=0.1)
