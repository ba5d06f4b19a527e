import re
import xml.etree.ElementTree as ET

import pytest
import torch

import monosem as ms
from monosem.analysis.relative_norms_svg import BINS, draw, write_picture


def made():
    """Of 40 features: 10 only of A, 6 only of B, 24 of both alike."""
    sae = ms.Crosscoder(8, 40, 2, seed=0)
    with torch.no_grad():
        sae.W_dec.copy_(torch.ones(40, 8))
        sae.W_dec[:10, 4:] = 0
        sae.W_dec[10:16, :4] = 0
    return sae


def test_the_histogram_shows_shared_and_exclusive_features(tmp_path):
    svg = write_picture(tmp_path / "norms.svg", made(), ["A", "B<"]).read_text(encoding="utf-8")
    ET.fromstring(svg)
    assert "24 features shared, 10 exclusive to A, 6 exclusive to B&lt;" in svg
    heights = [float(h) for h in re.findall(r'<rect class="bar"[^>]*height="([\d.]+)"', svg)]
    assert len(heights) == 3
    assert heights == pytest.approx([110 * n / 24 for n in (10, 24, 6)], abs=0.06)
    positions = [float(x) for x in re.findall(r'<rect class="bar" x="([\d.]+)"', svg)]
    bins = [round((x - 60.5) / (810 / BINS)) for x in positions]
    assert bins == [0, BINS // 2, BINS - 1]


def test_only_the_features_asked_for_are_counted():
    assert "0 features shared, 10 exclusive to A, 0 exclusive to B" in draw(made(), ["A", "B"], torch.arange(40) < 10)


def test_a_name_per_source_is_wanted():
    with pytest.raises(ValueError, match=r"names: got \['A'\]; wanted one per source, n_sources=2"):
        draw(made(), ["A"])
