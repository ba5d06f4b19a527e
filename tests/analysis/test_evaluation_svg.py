"""The picture of an evaluation: valid XML with the figures in it."""

import dataclasses
import math
from xml.etree import ElementTree

import pytest

from monosem.analysis.evaluation_svg import draw, write_picture
from monosem.analysis.metrics import evaluate


@pytest.fixture
def evaluation(model, lossy, rows, hook):
    rows.sources[0] = "ar_<b>&"
    return evaluate(lossy, model, hook, rows, progress=False)


def test_the_picture_is_valid_and_holds_the_figures(evaluation, tmp_path):
    path = write_picture(tmp_path / "new" / "e.svg", evaluation)
    root = ElementTree.parse(path).getroot()
    words = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
    assert f"{evaluation.ce_loss_recovered:.1%}" in words and "ar_<b>&" in words
    bars = [r for r in root.iter("{http://www.w3.org/2000/svg}rect") if r.get("class") == "bar"]
    assert len(bars) == 1 + sum(c > 0 for c in evaluation.density_counts) + len(evaluation.by_source)


def test_missing_figures_are_shown_as_not_available(evaluation):
    broken = dataclasses.replace(evaluation, ce_loss_recovered=math.nan, ce_zero=math.nan)
    assert "n/a" in draw(broken) and ElementTree.fromstring(draw(broken)) is not None
