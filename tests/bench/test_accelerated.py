"""The benchmark of accelerated autoencoders: who runs, and its table."""

from pathlib import Path

import accelerated
import pytest

import monosem
from monosem.bench.workloads import VARIANTS
from monosem.drop_in import METHODS


@pytest.mark.parametrize("library", accelerated.KINDS)
def test_plain_and_accelerated_differ_by_the_variant_and_find_this_package(library):
    for kind in accelerated.KINDS[library]:
        plain, fast = accelerated.pair(library, kind)
        assert plain.script == fast.script and plain.script.exists()
        assert (fast.variant, plain.env) == ("accelerated", {})
        assert Path(fast.env["PYTHONPATH"]) / "monosem" == Path(monosem.__file__).parent
        assert kind in accelerated.peers.KINDS or kind in VARIANTS
    assert set(accelerated.KINDS) == set(METHODS)


def test_table():
    def row(ms, name="monosem"):
        return {"name": name, "ms": ms, "error": None}

    done = {"library": "sparsify", "kind": "topk", "speedup": 4.0, "held_out": {"mse": [0.25, 0.25]}}
    done["rows"] = [row(170.0), row(1800.0, "sparsify"), row(450.0)]
    failed = {"library": "sae_lens", "kind": "relu"}
    failed["rows"] = [row(1.0), row(2.0, "SAELens dense"), {"error": "no such module"}]
    lines = accelerated.table([done, failed]).splitlines()
    assert lines[2] == "| sparsify | topk | 1,800 | 450 | 4.0 × | 170 | 0.250000 → 0.250000 |"
    assert lines[3] == "| SAELens | relu | no such module | | | | |"
