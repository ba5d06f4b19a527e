"""The page of the evidence and its charts."""

import re
from xml.etree import ElementTree

import pytest

from monosem.analysis.evidence import chart
from monosem.analysis.evidence.section import Finding, Section, render_page, write_page


def parse(figure: str) -> ElementTree.Element:
    """A figure is well-formed XML, and no coordinate in it is NaN or infinite."""
    assert not re.search(r'"-?(nan|inf)', figure)
    return ElementTree.fromstring(figure)


def test_every_chart_is_well_formed_and_escapes_its_words():
    odd, logs = '<b>&"', {"log_x": True, "log_y": True}
    figures = [
        chart.histogram({odd: [1, 2], "b": [0, 5]}, [0, 1, 2], x_label=odd, caption=odd, marks={odd: 1.5}),
        chart.histogram({"a": [1, 0], "b": [0, 500]}, [1e-6, 1e-3, 1], x_label="x", stacked=True, **logs),
        chart.bars({odd: [0.2, float("nan")], "b": [-1.0, 3.0]}, [odd, "y"], caption=odd),
        chart.lines(
            {odd: ([1, 10, 100], [3.0, 0.0, 5.0]), "floor": ([1, 100], [1, 2])},
            x_label="x",
            y_label=odd,
            dashed=("floor",),
            **logs,
        ),
        chart.scatter({odd: ([0.0, 1.0], [float("inf"), 2.0])}, x_label="x", y_label="y", tips={odd: [odd, odd]}),
        chart.lines({"one": ([4.0], [4.0])}, x_label="x", y_label="y"),
        chart.scatter({"none": ([], [])}, x_label="x", y_label="y", log_x=True),
    ]
    for figure in figures:
        assert parse(figure).tag == "figure"


def test_a_histogram_draws_each_bin_where_it_is():
    figure = parse(chart.histogram({"a": [10, 0, 5], "b": [10, 1, 0]}, [0, 1, 2, 3], x_label="x", stacked=True))
    bars = [r for r in figure.iter("rect")]
    assert len(bars) == 4  # empty bins have none
    heights = [float(r.get("height")) for r in bars]
    assert heights[0] == pytest.approx(2 * heights[1], rel=0.02)  # 10 and 5 of the first series
    a, b = bars[0], bars[2]  # the second series stands on the first
    assert float(b.get("y")) + float(b.get("height")) == pytest.approx(float(a.get("y")), abs=0.2)


def test_series_of_the_wrong_length_are_refused():
    with pytest.raises(ValueError, match="series: 'a' has 2 counts; wanted 3"):
        chart.histogram({"a": [1, 2]}, [0, 1, 2, 3], x_label="x")
    with pytest.raises(ValueError, match="series: 'a' has 1 values; wanted 2"):
        chart.bars({"a": [1.0]}, ["x", "y"])


def test_a_page_holds_every_finding_and_section(tmp_path):
    finding = Finding("claim <x>", "0.7", "0.8", "monosem x RUN")
    one = Section(
        anchor="a",
        title="First <one>",
        intro="intro & more",
        findings=(finding,),
        body="<p>body</p>",
        script="let x = 1;",
    )
    two = Section(anchor="b", title="Second", intro="", findings=(), body="")
    page = write_page(tmp_path / "deep" / "page.html", "A <title>", [one, two], notes=["made <so>"]).read_text()
    expected = ("First &lt;one&gt;", "claim &lt;x&gt;", "<p>body</p>", "let x = 1;", 'href="#b"', "made &lt;so&gt;")
    assert [e for e in expected if e not in page] == []
    assert "http" not in page.replace("http-equiv", "")
    assert "All claims" not in render_page("t", [one])
