"""docs/scaling.md and its picture say what was measured."""

import json
from pathlib import Path

import scaling_svg

ROOT = Path(__file__).parents[2]
PAGE = " ".join((ROOT / "docs" / "scaling.md").read_text(encoding="utf-8").split())
SCALING, KILLS = (json.loads((ROOT / "bench" / "results" / f"{n}.json").read_text()) for n in ("scaling", "kills"))


def test_the_picture_is_that_of_the_result():
    text = (ROOT / "docs" / "scaling.svg").read_text(encoding="utf-8")
    assert text == scaling_svg.picture(SCALING)
    assert len(text) < 30_000


def test_the_table():
    for row in SCALING["scaling"]:
        times = dict(scaling_svg.spans(row))
        others = row["ms"] - times["encode"] - times["exchange"]
        cells = [f"{row['mesh']}", f"{row['features']:,}", f"{row['ms']:.0f}", f"{times['encode']:.0f}"]
        cells += [f"{times['exchange']:.0f}", f"{others:.0f}", f"{row['sent_bytes'] / 1e6:.2f}"]
        cells += [f"{row['wire_bytes'] / 1e6:.2f}", f"{row['model_bytes'] / 1e6:.2f}"]
        assert f"| {' | '.join(cells)} |" in PAGE
        assert abs(row["sent_bytes"] - row["model_bytes"]) <= 0.05 * row["model_bytes"]


def test_the_bytes_of_ddp():
    found = SCALING["ddp"]
    ours, theirs = (found[f"{who}_wire_bytes"] / 2 / 1e6 for who in ("ours", "ddp"))
    assert f"{theirs:.0f} MB per step and process, and we {ours:.1f} MB: {found['ratio']:.0f} times less" in PAGE


def test_a_million_features():
    one, two = SCALING["million"]["rows"]
    assert (
        f"{one['peak_bytes'][0] / 1e9:.2f} GB in one process, {max(two['peak_bytes']) / 1e9:.2f} GB in each of" in PAGE
    )
    assert f"{one['ms'] / 1e3:.1f} s and {two['ms'] / 1e3:.1f} s per step" in PAGE
    assert max(two["peak_bytes"]) < 0.55 * one["peak_bytes"][0]
    assert all(abs(a / b - 1) < 1e-6 for a, b in zip(one["losses"], two["losses"], strict=True))


def test_kills():
    assert KILLS["same_bits"] == KILLS["kills"] >= 20
    assert all(row["exit_code"] == 0 for row in KILLS["rows"])
    writing = KILLS["while_a_checkpoint_was_written"]
    assert f"{KILLS['kills']} random times, {writing} of them while a checkpoint was written" in PAGE
