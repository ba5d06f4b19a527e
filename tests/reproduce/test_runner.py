"""The stages of a reproduction: done once, in order, gone on with after an interruption, never mixed up."""

import json

import pytest

from monosem.reproduce.context import Context
from monosem.reproduce.presets import PRESETS, SMALL
from monosem.reproduce.runner import Stage, run


def context(tmp_path, **changes):
    return Context(tmp_path / "out", SMALL, progress=False, **changes)


def counting(name, calls, fail=()):
    def work(_):
        calls.append(name)
        if name in fail:
            raise KeyboardInterrupt
        return {"value": name}

    return Stage(name, name.title(), work)


def test_a_stage_that_is_done_is_not_done_again(tmp_path):
    calls, said = [], []
    with pytest.raises(KeyboardInterrupt):
        run(context(tmp_path), [counting(n, calls, fail="b") for n in "abc"], said.append)
    assert calls == ["a", "b"]
    results = run(context(tmp_path), [counting(n, calls) for n in "abc"], said.append)
    assert calls == ["a", "b", "b", "c"]
    assert [results[n]["value"] for n in "abc"] == ["a", "b", "c"] and results["a"]["seconds"] >= 0
    assert any("1/3  A: done before" in line for line in said)
    assert json.loads((tmp_path / "out/evidence/c.json").read_text())["value"] == "c"


def test_a_folder_of_other_settings_is_refused(tmp_path):
    run(context(tmp_path), [])
    with pytest.raises(ValueError, match=r"another other, seed; give the same options to go on with it"):
        run(context(tmp_path, seed=1, other=None), [])


def test_a_result_must_be_json(tmp_path):
    with pytest.raises(ValueError):
        run(context(tmp_path), [Stage("a", "a", lambda _: {"value": float("nan")})], lambda _: None)
    assert not context(tmp_path).evidence("a").exists()


def test_the_presets_are_the_papers(tmp_path):
    for preset in PRESETS.values():
        widths = {r.name: r.d_sae for r in preset.runs}
        assert widths["A/0"] == 512 and widths["A/1"] == widths["B/1"] == widths["shuffled/1"] == 4096
        assert widths["A/2"] == 16_384 and [r.name for r in preset.of("A")][:3] == ["A/0", "A/1", "A/2"]
    assert PRESETS["paper"].run("A/5").d_sae == 131_072
    assert not [r for r in context(tmp_path, other=None).runs if r.model == "B"]
