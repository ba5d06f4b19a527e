"""The figures of README.md and docs/benchmarks.md are those of bench/results."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
SPEED = RESULTS / "amd-epyc-avx512-bf16-2-threads"
WITH_TABLES = ("README.md", "docs/benchmarks.md", "docs/design/step.md")
WITH_TABLES += ("docs/howto/accelerate.md", "docs/howto/huggingface.md", "docs/howto/language_model.md")
PAGES = {name: ROOT / name for name in WITH_TABLES}
RESULT_PAGES = ("README.md", "docs/benchmarks.md")
ZEN3, ZEN4 = RESULTS / "amd-epyc-avx2-2-threads", RESULTS / "amd-epyc-zen4-2-threads"
# Beginning of a row's first cell in both documents: its section of the results.
STEPS = {
    r"TopK(:|,) N 2,048": "laptop.topk",
    r".*ReLU with L1": "laptop.relu",
    r".*GPT-2: N 4,096": "gpt2.topk",
    r"the paper's widest": "widest.topk",
    r"a million features": "million.topk",
}


def table(page: str, heading: str) -> list[list[str]]:
    """Cells of the table whose first row holds ``heading``, without its first two rows."""
    lines = iter(PAGES[page].read_text(encoding="utf-8").splitlines())
    assert any(line.startswith("|") and heading in line for line in lines), f"{page}: no table with {heading!r}"
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def result(name: str) -> dict:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def short(ratio: float) -> str:
    """As the tables write a ratio: two digits."""
    return f"{ratio:.1f} ×" if ratio < 10 else f"{ratio:.0f} ×"


def others(rows: list[dict]) -> list[dict]:
    return [row for row in rows if row["name"].split()[0] != "monosem" and not row["error"]]


def cell(row: dict) -> str:
    precision = ", bf16" if row["name"].endswith(" bf16") else ""
    return f"{row['ms']:,.0f} ({row['name'].removesuffix(' bf16')}{precision}): {short(row['ratio'])}"


@pytest.mark.parametrize(
    ("page", "heading"), [("README.md", "fastest other, fp32"), ("docs/benchmarks.md", "fastest other in fp32")]
)
def test_step_times(page, heading):
    seen = []
    for name, ours, *cells in table(page, heading):
        (section,) = [section for pattern, section in STEPS.items() if re.match(pattern, name)]
        rows = result(f"{SPEED.name}/train_step.{section}.json")["rows"]
        assert ours == f"{min(row['ms'] for row in rows if row['name'] == 'monosem'):,.0f}"
        seen.append(section)
        if not others(rows):
            assert not any(cells)
            continue
        fp32 = [row for row in others(rows) if not row["name"].endswith(" bf16")]
        assert cells[0] == cell(min(others(rows), key=lambda row: row["ms"]))
        assert cells[1] == cell(min(fp32, key=lambda row: row["ms"]))
        times = {row["name"].removesuffix(" dense"): row for row in rows}
        for printed, name in zip(cells[2:], ("SAELens", "dictionary_learning"), strict=False):
            expected = f"{times[name]['ms']:,.0f}: {short(times[name]['ratio'])}" if name in times else "not run"
            assert printed.split(" (")[0] == expected
    assert len(seen) == len(set(seen)) == {"README.md": 3, "docs/benchmarks.md": 5}[page]


KINDS = {
    "BatchTopK": "batch_topk",
    "JumpReLU, target K": "jumprelu",
    "JumpReLU, free norms, λ": "jumprelu_free",
    "Gated": "gated",
    "Matryoshka, 5 prefixes over BatchTopK": "matryoshka",
    "ReLU, free norms": "relu_free",
}


def test_step_times_of_every_kind():
    printed = table("docs/benchmarks.md", "our TopK beside it")
    assert [name for name, *_ in printed] == list(KINDS)
    for name, *cells in printed:
        found = result(f"{ZEN4.name}/train_step.laptop.{KINDS[name]}.json")["rows"]
        rows = {r["name"]: r for r in found}
        expected = [f"{rows[which]['ms']:,.0f}" for which in ("monosem", "monosem topk")]
        expected.append(cell(min(others(found), key=lambda row: row["ms"])))
        expected += [
            f"{(r := rows[peer])['ms']:,.0f}: {short(r['ratio'])}" for peer in ("SAELens", "dictionary_learning")
        ]
        assert cells == expected, name


def test_inference_with_jumprelu():
    columns = ("dense_encode", "encode", "prepared_encode", "dense_decode", "decode")
    expected = [
        [
            f"{r['tokens']:,}",
            *(f"{ms:,.1f}" if (ms := r["ms"][c]) < 10 else f"{ms:,.0f}" for c in columns),
            short(r["both_ratio"]),
        ]
        for r in result("inference.json")["rows"]
    ]
    assert table("docs/benchmarks.md", "dense / ours, both") == expected


def test_losses_of_every_kind():
    for name, *cells in table("docs/benchmarks.md", "clipped as the others clip"):
        rows = {r["name"]: r for r in result(f"{ZEN3.name}/losses.{KINDS[name]}.json")["rows"]}
        who = ("monosem", "monosem clip", "SAELens", "dictionary_learning")
        assert cells == [f"{rows[w]['mse']:.3g} (L0 {rows[w]['l0']:.1f})" for w in who], name


def test_accelerated_training_loops():
    printed = table("docs/howto/accelerate.md", "accelerated, ms")
    measured = result("accelerated.json")["results"]
    for row, found in zip(printed, measured, strict=True):
        ours, plain, fast = found["rows"]
        times = [f"{r['ms']:,.0f}" for r in (plain, fast)]
        before, after = found["held_out"]["mse"]
        assert row[2:] == [*times, f"{found['speedup']:.1f} ×", f"{ours['ms']:,.0f}", f"{before:.6f} → {after:.6f}"]
        assert abs(after / before - 1) < 1e-3, "both have learnt the same"


def test_the_figure_of_the_introduction():
    """The README's first figure is the first row of its table."""
    text = " ".join(PAGES["README.md"].read_text(encoding="utf-8").split())
    rows = {row["name"]: row for row in result(f"{SPEED.name}/train_step.laptop.topk.json")["rows"]}
    assert (
        f"takes {rows['monosem']['ms']:.0f} ms on two CPU cores, against {rows['sparsify bf16']['ms']:.0f} ms for the "
        f"fastest other library in bf16 and {rows['sparsify']['ms']:.0f} ms in fp32" in text
    )


def test_the_floors_and_the_memory():
    text = " ".join(PAGES["docs/benchmarks.md"].read_text(encoding="utf-8").split())
    sections = {name: result(f"{SPEED.name}/train_step.{name}.json") for name in STEPS.values()}
    floor = sections["laptop.topk"]["floor"]
    assert f"it is {floor['ms']:.0f} ms with the int8 product" in text
    assert f"{floor['bf16_ms']:.0f} ms with PyTorch's bf16 product" in text
    over = {
        name: min(row["over_state"] for row in figures["rows"] if row["name"] == "monosem") * 100
        for name, figures in sections.items()
    }
    expected = (
        f"by {over['laptop.topk']:.0f} % in the first row, {over['laptop.relu']:.0f} % with ReLU, "
        f"{over['gpt2.topk']:.0f} % at GPT-2's shape and {over['widest.topk']:.0f} % at the widest"
    )
    assert expected in text
    sparsify = [
        round(row["over_state"] * 100)
        for figures in sections.values()
        for row in figures["rows"]
        if row["name"].startswith("sparsify")
    ]
    assert f"(sparsify: {min(sparsify)} to {max(sparsify)} %)" in text


def test_learning_rates():
    expected = [
        [
            {"topk": "TopK", "relu": "ReLU"}[r["kind"]],
            f"{r['lr']:g}",
            f"{r['l0']:.1f}",
            *(f"{r[name]:.1%}".replace("%", " %") for name in ("ce_loss_recovered", "explained_variance")),
            f"{r['dead']:,}",
        ]
        for r in result("learning_rates.json")["rows"]
    ]
    assert table("docs/benchmarks.md", "| learning rate |") == expected


def test_dead_features_of_a_wide_dictionary():
    rows = result("auxk_wide.json")["rows"]
    header = re.search(r"\| dead after step \| (.*) \|\n", PAGES["docs/benchmarks.md"].read_text(encoding="utf-8"))
    assert header
    steps = [int(cell.replace(",", "")) for cell in header[1].split(" | ")]
    dead = [{point["step"]: f"{point['dead']:.1%}".replace("%", " %") for point in row["points"]} for row in rows]
    cells = table("docs/benchmarks.md", "| dead after step |")
    assert [row[1:] for row in cells] == [[of.get(step, "") for step in steps] for of in dead]
    last = rows[1]["points"][-1]
    assert f"({last['aux']:.4f}, the error itself)" in PAGES["docs/benchmarks.md"].read_text(encoding="utf-8")
    assert abs(last["aux"] - last["mse"]) < 0.01 * last["mse"]
    kept, lazy = (rows[i]["points"][-1] for i in (2, 3))
    assert kept["step"] == lazy["step"] == steps[-1]
    assert f"{lazy['mse'] / kept['mse'] - 1:.0%} higher after".replace("%", " %") in " ".join(
        PAGES["docs/benchmarks.md"].read_text(encoding="utf-8").split()
    )


def test_a_dictionary_of_a_real_model():
    found = result("smollm2.json")
    (cells,) = table("docs/howto/huggingface.md", "| held-out tokens | L0 |")
    of, stages = found["evaluation"], found["stages"]
    shares = [of[name] * 100 for name in ("explained_variance", "ce_loss_recovered", "ce_loss_recovered_of_mean")]
    assert cells == [
        f"{of['tokens']:,}",
        f"{of['l0']:.1f}",
        *(f"{share:.1f} %" for share in shares),
        f"{of['kl_sae']:.2f}",
        f"{of['dead']:,}",
    ]
    text = " ".join(PAGES["docs/howto/huggingface.md"].read_text(encoding="utf-8").split())
    assert f"{found['d_sae']:,} features" in text and f"with {found['harvested_tokens']:,} tokens read" in text
    assert ", ".join(f"{name} {stage['cpu_seconds']:.0f}" for name, stage in stages.items()) in text
    assert f"at most {max(stage['peak_gb'] for stage in stages.values()):.2f} GB" in text


def test_a_language_model_explains_beside_the_rules():
    found = result("explain_smollm2.json")
    rows = table("docs/howto/language_model.md", "| explained by |")
    tasks = ("simulation", "weighted", "detection", "fuzzing", "logits")
    for cells, name in zip(rows, ("rules", "language_model"), strict=False):
        assert cells[1:] == [interval(found[name]["summary"]["scores"][task]) for task in tasks]
    areas = found["language_model"]["summary"]["auc"]
    assert rows[2][1:] == [interval(areas[task]) if task in areas else "" for task in tasks]
    read = [a for a in found["language_model"]["answers"].values() if isinstance(a, dict)]
    asked = found["language_model"]["requests"]
    text = " ".join(PAGES["docs/howto/language_model.md"].read_text(encoding="utf-8").split())
    given, written = (sum(a[key] for a in read) for key in ("logprobs", "written"))
    assert f"{given:,} of {given + written:,} numbers" in text
    assert f"{found['rules']['summary']['n']} features" in text
    assert [i["feature"] for i in found["rules"]["items"]] == [i["feature"] for i in found["language_model"]["items"]]
    assert "unusable" not in asked or str(sum(sum(r.values()) for r in asked["unusable"].values())) in text


def interval(score: dict | None) -> str:
    return f"{score['median']:.2f} [{score['low']:.2f}, {score['high']:.2f}]" if score else "none"


def test_a_million_features_at_inference():
    found = result("million_jumprelu.json")
    printed = table("docs/benchmarks.md", "| weights | memory beyond them |")
    assert found["d_sae"] == 1 << 20 and found["tokens"] == 256 and len(printed) == len(found["rows"])
    for cells, row in zip(printed, found["rows"], strict=True):
        plain, prepared = row["plain"], row["prepared"]
        assert cells == [
            f"{row['d_in']:,}",
            f"{row['write']['weights_bytes'] / 1e9:.2f} GB",
            f"{plain['over_weights']:.0%}".replace("%", " %"),
            f"{prepared['over_weights']:.0%}".replace("%", " %"),
            f"{plain['times']['encode']['cpu_ms']:,.0f}",
            f"{prepared['times']['encode']['cpu_ms']:,.0f}",
            f"{plain['times']['decode']['cpu_ms']:,.1f}",
        ]
        assert row["check"]["largest_difference"] < 1e-4


def test_instruction_sets():
    measured = {row["name"]: row["ms"] for row in result(f"{SPEED.name}/instruction_sets.json")["rows"]}
    sets = ("avx512vnni", "avx512", "avxvnni", "avx2", "baseline")
    ours, dense = table("docs/benchmarks.md", "| avx512vnni | avx512 |")
    assert ours[1:] == [f"{measured[f'monosem ({isa})']:,.0f}" for isa in sets]
    assert dense[1:] == [f"{measured[f'PyTorch ({isa}) eager']:,.0f}" for isa in sets]


def test_the_passes_of_a_step():
    measured = {row["name"]: row for row in result(f"{SPEED.name}/operations.laptop.topk.json")["rows"]}
    rows = table("docs/design/step.md", "| floor, ms | measured, ms |")
    picture = (ROOT / "docs" / "design" / "step.svg").read_text(encoding="utf-8")
    total = 0.0
    for _, operation, _, *printed in rows:
        row = measured[operation.strip("`")]
        digits = 1 if row["ms"] > 10 else 2
        assert printed == [f"{row['floor_ms']:.{digits}f}", f"{row['ms']:.{digits}f}"]
        assert f">{row['ms']:.1f} ms, floor " in picture
        total += row["ms"]
    assert len(rows) == 6
    assert f"They sum to {total:.0f} ms" in PAGES["docs/design/step.md"].read_text(encoding="utf-8")


def test_end_to_end():
    text = " ".join(PAGES["docs/benchmarks.md"].read_text(encoding="utf-8").split())
    ours, theirs = result(f"{SPEED.name}/end_to_end.json")["rows"]
    speeds = [row["tokens_per_second"] for row in (ours, theirs)]
    assert f"{round(speeds[0], -2):,.0f} tokens per second, SAELens' runner {round(speeds[1], -1):,.0f}" in text


@pytest.mark.parametrize("page", RESULT_PAGES)
def test_quality(page):
    heading = "| activations | minutes |" if page == "README.md" else "| trained on | minutes |"
    rows = {row[0].split("`")[1]: row[1:] for row in table(page, heading) if "`" in row[0]}
    assert set(rows) == {"TopKSAE", "ReLUSAE"}
    for name, kind in (("TopKSAE", "topk"), ("ReLUSAE", "relu")):
        figures = result(f"dictionary_{kind}.json")
        dead = figures["dead"] / figures["d_sae"] * 100
        expected = [
            f"{figures['metadata']['tokens'] / 1e6:.1f} M",
            f"{figures['training_seconds'] / 60:.1f}",
            f"{figures['l0']:.1f}",
            f"{figures['ce_loss_recovered'] * 100:.1f} %",
            f"{figures['explained_variance'] * 100:.1f} %",
            f"{dead:.1f} %" if dead >= 0.1 else f"{dead:.2f} %",
            " / ".join(f"{label['correlation']:.2f}" for label in figures["labels"]),
        ]
        printed = [rows[name][0].removesuffix(" activations"), *rows[name][1:]]
        assert printed == expected[: len(printed)] and len(printed) >= 6


def test_recovery():
    text = " ".join(PAGES["docs/benchmarks.md"].read_text(encoding="utf-8").split())
    figures = {run["autoencoder"]["kind"]: run["mean_max_cosine"] for run in result("recovery.json")["runs"]}
    assert f"a mean max cosine of {figures['topk']:.3f} (TopK) and {figures['relu']:.3f} (ReLU)" in text


def test_planted():
    kinds = {row["name"]: row for row in result("planted.json")["kinds"]}
    printed = table("docs/benchmarks.md", "children found")
    assert [row[0] for row in printed] == list(kinds)
    for name, *cells in printed:
        of = {figure: value["mean"] for figure, value in kinds[name]["summary"].items()}
        spread = kinds[name]["summary"]["absorption"]["sd"]
        assert cells == [
            f"{of['l0']:.2f}",
            f"{of['explained_variance'] * 100:.1f} %",
            f"{of['mcc']:.3f}",
            f"{of['children'] * 100:.1f} %",
            f"{of['f1']:.3f}",
            f"{of['parent_recall_alone'] * 100:.1f} %, {of['parent_recall'] * 100:.1f} %",
            f"{of['absorption'] * 100:.1f} % ± {spread * 100:.1f} %",
        ]
    for nested, flat in (("matryoshka", "batch_topk"), ("matryoshka_topk", "topk"), ("matryoshka", "topk")):
        for a, b in zip(kinds[nested]["runs"], kinds[flat]["runs"], strict=True):  # the same data, seed by seed
            assert a["absorption"] < b["absorption"]


def _claims() -> dict[str, str]:
    return {finding["claim"]: finding["ours"] for finding in result("reproduce_small.json")["findings"]}


def _one(start: str) -> str:
    (ours,) = [ours for claim, ours in _claims().items() if claim.startswith(start)]
    return ours


@pytest.mark.parametrize("page", RESULT_PAGES)
def test_claims(page):
    rows = {row[0]: row[-1] for row in table(page, "| here |")}

    def printed(word: str) -> str:
        (one,) = [ours for claim, ours in rows.items() if word in claim]
        return one

    shares = re.findall(r"(\d+)% against (\d+)%", _one("Features are more specific"))
    expected = " against ".join(", ".join(pair[side] for pair in shares[:3]) + " %" for side in (0, 1))
    assert printed("specific").startswith(expected)
    explained = re.findall(r"-?\d\.\d\d", _one("Explanations predict the activations"))
    assert printed("explanations predict activations").startswith(", ".join(explained))
    counterparts = [
        re.search(r"\d\.\d\d", _one(f"{side} of one model have a counterpart"))[0] for side in ("Features", "Neurons")
    ]
    assert printed("counterpart in B") == "; ".join(counterparts)
    grown = re.findall(r"\d+", _one("Features that fire mostly on base64"))
    assert printed("base64 features at").startswith(", ".join(grown))
    if page == "README.md":
        assert len(rows) == 4
        return
    pearson = [
        re.search(r"\d\.\d\d", _one(f"A feature responds to {label}:"))[0]
        for label in ("Arabic", "Hebrew", "DNA", "base64")
    ]
    assert printed("Pearson with its proxy") == " / ".join(pearson)
    neurons = [
        re.search(r"best neuron (\d\.\d\d)", _one(f"A feature responds to {label}:"))[1]
        for label in ("Arabic", "Hebrew", "DNA", "base64")
    ]
    assert printed("… the best neuron") == " / ".join(neurons)
    pinned = [f for f in result("reproduce_small.json")["findings"] if "pinned" in f["claim"] and "at 1×" in f["ours"]]
    hits = [
        next(f["ours"].split()[0] for f in pinned if f["claim"].startswith(f"The {label}") and after in f["claim"])
        for label in ("base64", "Arabic")
        for after in ("Once", "1,2")
    ]
    assert printed("the base64 feature writes").startswith(
        f"{hits[0]} of 10 samples after a prose prompt, {hits[1]} of 10 after numbers"
    )
    assert hits[2:] == ["0", "0"] and printed("the Arabic feature").startswith("0 of 10")
    assert printed("not neurons").startswith(re.search(r"\d\.\d\d", _one("Features are not neurons"))[0])
    predicted = re.findall(r"\d\.\d\d", _one("From the explanation one can tell"))[:3]
    assert printed("explanations predict next tokens").startswith(", ".join(predicted))
    assert printed("clusters").startswith(_one("Features lie in clusters").split(";")[0].replace("%", " %"))
    assert printed("ultralow") == _one("Far more features than neurons").split()[0]
    assert printed("automata").startswith(_one("Features form finite-state").split(" features")[0])


def test_claims_with_200_million_activations():
    found = result("reproduce_paper.json")
    ours = {finding["claim"]: finding["ours"] for finding in found["findings"]}
    rows = {row[0]: row[-1] for row in table("docs/benchmarks.md", "| here, 200 M |")}
    one = lambda start: next(text for claim, text in ours.items() if claim.startswith(start))
    of_labels = [one(f"A feature responds to {label}:") for label in ("Arabic", "Hebrew", "DNA", "base64")]
    assert rows["Pearson with its proxy, Arabic / Hebrew / DNA / base64"] == " / ".join(t[:4] for t in of_labels)
    assert rows["… the best neuron"] == " / ".join(re.search(r"neuron (\d\.\d\d)", t)[1] for t in of_labels)
    shares = re.findall(r"(\d+)% against (\d+)%", one("Features are more specific"))
    against = " against ".join(", ".join(pair[side] for pair in shares[:3]) + " %" for side in (0, 1))
    (specific,) = [text for claim, text in rows.items() if "specific" in claim]
    assert specific == f"{against} (base64: {shares[3][0]} against {shares[3][1]} %)"
    for label in ("Arabic", "Hebrew"):
        assert one(f"The {label} context").startswith("in those of 0 neurons")
    neurons = re.search(r"(\S+) \(median\); .*, (\d+)% above 0.8", one("Features are not neurons"))
    hebrew, base64 = (one(f"The {label} feature's most")[:4] for label in ("Hebrew", "base64"))
    (closest,) = [text for claim, text in rows.items() if "not neurons" in claim]
    assert closest == f"{neurons[1]}; {neurons[2]} % above 0.8; Hebrew {hebrew}, but base64 {base64}"
    for label, row in (("base64", "base64 feature writes"), ("Arabic", "… the Arabic")):
        pinned = [f for f in found["findings"] if f["claim"].startswith(f"The {label} feature, pinned")]
        hits = [f["ours"].split(" samples")[0] for f in pinned if "at 1×" in f["ours"]]
        (printed,) = [text for claim, text in rows.items() if row in claim]
        assert len(hits) == 2 and printed.startswith(" and ".join(hits))
    (ablated,) = [text for claim, text in rows.items() if "ablated" in claim]
    for label in ("base64", "Arabic"):
        loss, low, high = re.match(
            r"(\S+) nats per token on \w+ \[(\S+), (\S+)\]", one(f"Ablating it hurts {label}")
        ).groups()
        assert f"{label} {loss} [{low}, {high}]".replace("-", "−") in ablated
    counterparts = [one(f"{side} of one model have a counterpart").split()[-1] for side in ("Features", "Neurons")]
    assert [text for claim, text in rows.items() if "counterpart" in claim] == ["; ".join(counterparts)]
    main = next(d for d in found["dictionaries"] if d["name"] == "A/1")
    words = " ".join(PAGES["docs/benchmarks.md"].read_text(encoding="utf-8").split())
    assert (
        f"CE loss recovered {main['ce_loss_recovered'] * 100:.1f} %, explained variance "
        f"{main['explained_variance'] * 100:.1f} %, {main['dead'] / main['d_sae'] * 100:.1f} % silent" in words
    )


def test_what_specific_features_cover():
    kinds = {kind["name"]: kind for kind in result("reproduce_paper.json")["kinds_of_text"]}
    shares = [f"{kinds[name]['feature']['sensitivity'] * 100:.0f}" for name in ("Arabic", "Hebrew", "DNA")]
    words = " ".join(PAGES["docs/benchmarks.md"].read_text(encoding="utf-8").split())
    assert f"on {shares[0]}, {shares[1]} and {shares[2]} % of the tokens of their kind" in words
    specific = [f for f in kinds["DNA"]["next"] if f["specificity"] > 0.95]
    assert len(specific) == 3 and "three more features of DNA are as specific" in words


def test_counterparts_by_how_often_a_feature_fires():
    bins = result("reproduce_paper.json")["universality_by_tokens"]
    features, medians = table("docs/benchmarks.md", "| fires on … of 5 M tokens |")
    assert features[1:] == [f"{b['features']}" for b in bins]
    assert medians[1:] == [f"{b['median']:.2f}" for b in bins]


def test_how_long_reproduction_takes(capsys):
    from monosem.cli.main import main

    expected = f"{result('reproduce_small.json')['machine']['minutes']:.0f} minutes on two cores"
    with pytest.raises(SystemExit):
        main(["reproduce", "--help"])
    assert expected in " ".join(capsys.readouterr().out.split())
    assert expected in " ".join(PAGES["docs/benchmarks.md"].read_text(encoding="utf-8").split())
