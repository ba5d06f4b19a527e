"""The figures of README.md and docs/benchmarks.md are those of bench/results: speed, memory and quality."""

import re

import pytest
from figures import AMX, PAGES, RESULT_PAGES, ROOT, SPEED, ZEN3, ZEN4, result, table

# Beginning of a row's first cell in both documents: its section of the results.
STEPS = {
    r"TopK(:|,) N 2,048": "laptop.topk",
    r".*ReLU with L1": "laptop.relu",
    r".*GPT-2: N 4,096": "gpt2.topk",
    r"the paper's widest": "widest.topk",
    r"a million features": "million.topk",
}
NEURONS = {r"a ReLU's neurons: N 2,048": "neurons.topk", r"a ReLU's neurons: N 8,192": "widest_neurons.topk"}


def short(ratio: float) -> str:
    """As the tables write a ratio: two digits."""
    return f"{ratio:.1f} ×" if ratio < 10 else f"{ratio:.0f} ×"


def others(rows: list[dict]) -> list[dict]:
    return [row for row in rows if row["name"].split()[0] != "monosem" and not row["error"]]


def cell(row: dict) -> str:
    precision = ", bf16" if row["name"].endswith(" bf16") else ""
    return f"{row['ms']:,.0f} ({row['name'].removesuffix(' bf16')}{precision}): {short(row['ratio'])}"


@pytest.mark.parametrize(
    ("page", "heading", "machine", "count"),
    [
        ("README.md", "fastest other, fp32", SPEED, 3),
        ("docs/benchmarks.md", "fastest other in fp32", SPEED, 5),
        ("docs/benchmarks.md", "with AMX, one step, ms", AMX, 4),
        ("docs/benchmarks.md", "on a Zen 4, one step, ms", ZEN4, 6),
    ],
)
def test_step_times(page, heading, machine, count):
    seen = []
    for name, ours, *cells in table(page, heading):
        (section,) = [section for pattern, section in (STEPS | NEURONS).items() if re.match(pattern, name)]
        rows = result(f"{machine.name}/train_step.{section}.json")["rows"]
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
    assert len(seen) == len(set(seen)) == count


def test_floors_of_steps_on_a_zen_4():
    text = " ".join(PAGES["docs/benchmarks.md"].read_text(encoding="utf-8").split())
    sections = ("laptop.topk", "laptop.relu", "gpt2.topk", "widest.topk")
    floors = [f"{result(f'{ZEN4.name}/train_step.{s}.json')['floor']['ms']:,.0f}" for s in sections]
    assert f"The floors of the first four rows are {', '.join(floors[:3])} and {floors[3]} ms." in text


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


def test_the_beginning_of_relu_dictionaries():
    (header,) = re.findall(r"\| active at the start \| (.*) \|\n", PAGES["docs/architectures.md"].read_text("utf-8"))
    steps = [int(cell.removeprefix("step ")) for cell in header.split(" | ")]
    for (name, *cells), run in zip(
        table("docs/architectures.md", "| active at the start |"), result("relu_start.json")["runs"], strict=True
    ):
        assert name == ("half (biases of 0)" if run["initial_l0"] is None else f"{run['initial_l0']:g}")
        points = {point["step"]: point for point in run["points"]}
        assert cells == [
            f"{points[n]['seconds']:.1f} s, L0 {points[n]['l0']:,.1f}, {points[n]['mse']:.4f}" for n in steps
        ]


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
    found = result("auxk_wide.json")
    rows, text = found["rows"], " ".join(PAGES["docs/benchmarks.md"].read_text(encoding="utf-8").split())
    header = re.search(r"\| dead after step \| (.*) \|\n", PAGES["docs/benchmarks.md"].read_text(encoding="utf-8"))
    assert header
    steps = [int(cell.replace(",", "")) for cell in header[1].split(" | ")]
    dead = [{point["step"]: f"{point['dead']:.1%}".replace("%", " %") for point in row["points"]} for row in rows]
    cells = table("docs/benchmarks.md", "| dead after step |")
    assert [row[1:] for row in cells] == [[of.get(step, "") for step in steps] for of in dead]
    last = rows[1]["points"][-1]
    assert f"({last['aux']:.4f}, the error itself)" in text
    assert abs(last["aux"] - last["mse"]) < 0.01 * last["mse"]
    kept = rows[2]["points"][-1]
    lazy = next(point for point in rows[3]["points"] if point["step"] == kept["step"])
    assert kept["step"] == 2300 and rows[3]["points"][-1]["step"] == steps[-1] == 10_000
    assert f"{lazy['mse'] / kept['mse'] - 1:.0%} higher after".replace("%", " %") in text
    larger = next(point for point in rows[4]["points"] if point["step"] == kept["step"])
    assert f"(the error is {larger['mse'] / lazy['mse'] * 100 - 100:.0f} % higher after 2,300 steps)" in text
    used = next(of for of in found["in_use"] if of["step"] == 2305)
    assert f"the {used['1000000']:,} features" in text and f"{used['200000']:,} had within the last 200,000" in text
    last = found["smaller_eps"]["points"][-1]
    assert last["step"] == 1000 and f"{last['dead'] * 100:.1f} % are dead after 1,000 steps" in text


WIDE = {  # file: how its paragraph begins, the steps of its table, how its row of the claims names it
    "relu_wide.json": ("The paper’s own recipe for so many features", "250 |", "12 M activations"),
    "relu_wide_long.json": ("The same for longer", "500 |", "41 M activations"),
}


@pytest.mark.parametrize("name", WIDE)
def test_relu_at_the_width_of_the_paper(name):
    found, (begins, first_step, claimed) = result(name), WIDE[name]
    page = PAGES["docs/benchmarks.md"].read_text(encoding="utf-8")
    paragraph = " ".join(page.split(begins)[1].split())
    heading = f"| after step | {first_step}"
    (steps,) = re.findall(rf"\| after step \| ({re.escape(first_step)}.*) \|\n", page)
    points = {point["step"]: point for point in found["points"]}
    at = [points[int(cell.replace(",", ""))] for cell in steps.split(" | ")]
    assert table("docs/benchmarks.md", heading) == [
        ["L0", *(f"{p['l0']:.1f}" for p in at)],
        ["error", *(f"{p['mse']:.4f}" for p in at)],
        ["dead", *(f"{p['dead']:.1%}".replace("%", " %") for p in at)],
    ]
    last, of, resampling = found["points"][-1], found["evaluation"], found["training"]["resample"]["at_steps"]
    assert f"λ {found['config']['l1_coefficient']}" in paragraph
    assert f"after steps {', '.join(f'{n:,}' for n in resampling[:-1])} and {resampling[-1]:,}" in paragraph
    assert f"{last['tokens'] / 1e6:.1f} million activations" in paragraph
    live = found["config"]["d_sae"] - of["dead"] - of["ultralow"]
    assert (
        f"recovers {of['ce_loss_recovered'] * 100:.1f} % of the CE loss at L0 {of['l0']:.1f} and explains "
        f"{of['explained_variance'] * 100:.1f} % of the variance of {of['tokens'] / 1e6:.1f} million held-out tokens, "
        f"on which {live:,} of its features have a density above 10⁻⁶ and {of['dead']:,} are silent" in paragraph
    )
    assert of["ultralow_bound"] == 1e-6
    assert f"{found['resampled']:,} times a feature was resampled" in paragraph
    (row,) = [
        cells
        for cells in table("docs/benchmarks.md", "| here, 200 M |")
        if "131,072 ReLU" in cells[0] and claimed in cells[0]
    ]
    recovered = f"{of['ce_loss_recovered'] * 100:.1f} % of the CE loss recovered"
    assert row[2] == f"{live:,} above that density; {of['dead']:,} silent; {recovered}"


def test_the_longer_run_beside_the_shorter():
    short_run, long_run = (result(name) for name in WIDE)
    text = " ".join(PAGES["docs/benchmarks.md"].read_text(encoding="utf-8").split())
    assert f"read at {long_run['machine']['tokens_per_second']:,} a second" in text
    rare = [found["evaluation"]["ultralow"] for found in (long_run, short_run)]
    assert f"{rare[0]:,} below that density instead of {rare[1]:,}" in text
    dead = [point["dead"] * 100 for point in long_run["points"] if point["step"] >= 6000]
    assert f"From step 6,000 on, {min(dead):.1f} to {max(dead):.1f} % are dead" in text


def test_resampled_features_that_did_not_fire():
    found = result("relu_wide.json")
    text = " ".join(PAGES["docs/benchmarks.md"].read_text(encoding="utf-8").split())
    points = {point["step"]: point for point in found["points"]}
    last, (first, then) = found["points"][-1], (points[n]["dead"] * 100 for n in (1375, 1425))
    assert f"{last['tokens'] / 1e6:.1f} million activations in {last['seconds'] / 60:.0f} minutes" in text
    assert "from step 1,375 to 1,425, when those of step 1,125 could count as dead, " in text
    assert f"the dead rose from {first:.1f} to {then:.1f} %" in text


def test_what_brings_dead_features_back():
    expected = [
        [
            str(r["steps"]),
            f"{r['lr']:g}",
            str(r["aux_k"] or "none"),
            {0.03125: "1/32"}.get(r["aux_coefficient"], f"{r['aux_coefficient']:g}") if r["aux_k"] else "",
            f"{r['eps']:g}",
            "reset" if r["moments_reset"] else "kept",
            f"{r['revived']:,}",
            f"{r['live']:,}",
        ]
        for r in result("auxk_wide.json")["revival"]["rows"]
    ]
    assert table("docs/benchmarks.md", "| `aux_coefficient` |") == expected


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


def test_what_tiles_of_int8_take():
    text = " ".join(PAGES["docs/benchmarks.md"].read_text(encoding="utf-8").split())
    rows = {row["name"]: row["ms"] for row in result(f"{AMX.name}/instruction_sets.json")["rows"]}
    amx, vnni, neither = (rows[f"monosem ({isa})"] for isa in ("amx", "avx512vnni", "avx512"))
    widest = [
        row["ms"] for row in result(f"{AMX.name}/train_step.widest.topk.json")["rows"] if row["name"] == "monosem"
    ]
    assert "monosem took {:.0f} ms beside sparsify in fp32, {:.0f} in bf16".format(*widest) in text
    assert f"takes {amx:.0f} ms with AMX, {vnni:.0f} with VNNI alone and {neither:.0f} without both" in text


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
    for folder, words, between in (
        (SPEED.name, "", " tokens per second, SAELens' runner "),
        (ZEN4.name, "Zen 4: ", " and "),
        (AMX.name, "`monosem train` reads ", " tokens per second there, SAELens' runner "),
    ):
        ours, theirs = (row["tokens_per_second"] for row in result(f"{folder}/end_to_end.json")["rows"])
        assert f"{words}{round(ours, -2):,.0f}{between}{round(theirs, -1):,.0f}" in text


@pytest.mark.parametrize("page", RESULT_PAGES)
def test_quality(page):
    heading = "| activations | minutes |" if page == "README.md" else "| trained on | minutes |"
    rows = {row[0]: row[1:] for row in table(page, heading) if "`" in row[0]}
    files = {"`TopKSAE`, k = 16": "topk", "`ReLUSAE`, λ = 0.0017, `initial_l0` = 50": "relu_few"}
    files |= {} if page == "README.md" else {"`ReLUSAE`, λ = 0.0017": "relu"}
    assert set(rows) == set(files)
    for name, file in files.items():
        figures = result(f"dictionary_{file}.json")
        assert figures["config"].get("initial_l0") == (50 if file == "relu_few" else None)
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
