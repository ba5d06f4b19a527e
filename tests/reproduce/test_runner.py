"""The stages of a reproduction: run once, in order, resumed after an interruption, never mixed up."""

import json

import pytest
from tiny import tiny_model

from monosem.data.native import save_folder
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


def test_a_finished_stage_is_not_repeated(tmp_path):
    calls, messages = [], []
    with pytest.raises(KeyboardInterrupt):
        run(context(tmp_path), [counting(n, calls, fail="b") for n in "abc"], messages.append)
    assert calls == ["a", "b"]
    results = run(context(tmp_path), [counting(n, calls) for n in "abc"], messages.append)
    assert calls == ["a", "b", "b", "c"]
    assert [results[n]["value"] for n in "abc"] == ["a", "b", "c"] and results["a"]["seconds"] >= 0
    assert any("1/3  A: done before" in line for line in messages)
    assert json.loads((tmp_path / "out/evidence/c.json").read_text())["value"] == "c"


def test_a_folder_of_other_settings_is_refused(tmp_path):
    run(context(tmp_path), [])
    with pytest.raises(ValueError, match=r"another other, seed; give the same options to resume it"):
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
    paper = PRESETS["paper"]
    assert paper.run("A/5").d_sae == 131_072 and paper.run("A/5").checkpoint_every < 300
    activations = {r.name: r.steps * paper.batch_size for r in paper.runs}
    assert activations["A/1"] >= 200e6 and activations["A/5"] >= 40e6
    assert all(n >= 50e6 for name, n in activations.items() if name != "A/5")
    assert not [r for r in context(tmp_path, other=None).runs if r.model == "B"]


def lines(path, *texts):
    path.write_text("".join(json.dumps({"source": "a", "text": text}) + "\n" for text in texts))
    return str(path)


def test_a_text_that_changed_under_its_name_is_refused(tmp_path):
    text = lines(tmp_path / "mine.jsonl", "first")
    run(context(tmp_path, text=text), [counting("a", [])])
    lines(tmp_path / "mine.jsonl", "quite another")
    calls = []
    with pytest.raises(ValueError, match=r"out: .*made from another text .*mine\.jsonl .*Put it back"):
        run(context(tmp_path, text=text), [counting("a", calls), counting("b", calls)])
    (tmp_path / "out/reproduce.json").unlink()  # each stored result is checked too
    with pytest.raises(ValueError, match=r"evidence: .*a\.json' is made from another text"):
        run(context(tmp_path, text=text), [counting("a", calls), counting("b", calls)])
    assert calls == []


@pytest.mark.parametrize("which", ["model", "other"])
def test_a_model_that_changed_in_its_folder_is_refused(tmp_path, which):
    def save(**changes):
        model = tiny_model(**changes)
        save_folder(tmp_path / "lm", model.module, model.tokenizer)

    save()
    options = {which: str(tmp_path / "lm")}
    run(context(tmp_path, **options), [counting("a", [])])
    run(context(tmp_path, **options), [counting("a", [])])
    save(seed=5)
    with pytest.raises(ValueError, match="made from another model"):
        run(context(tmp_path, **options), [counting("a", [])])


def test_a_folder_of_an_older_version_continues_with_a_note(tmp_path):
    run(context(tmp_path), [counting("a", [])])
    for name in ("reproduce.json", "evidence/a.json"):
        held = json.loads((tmp_path / "out" / name).read_text())
        del held["made_from"], held["digests"], held["sha256"]
        (tmp_path / "out" / name).write_text(json.dumps(held))
    messages = []
    run(context(tmp_path), [counting("a", [])], messages.append)
    assert "whether they are the same is unknown" in messages[0]


@pytest.mark.parametrize("damage", ['{"value": "fir', "[1]", '{"value": 1}', "\udcff", "[" * 100_000])
def test_damaged_evidence_is_named(tmp_path, damage):
    run(context(tmp_path), [counting("a", [])])
    context(tmp_path).evidence("a").write_text(damage, errors="surrogateescape")
    with pytest.raises(ValueError, match=r"evidence: '.*a\.json' .*remove it, and the stage is done again"):
        run(context(tmp_path), [counting("a", [])])
