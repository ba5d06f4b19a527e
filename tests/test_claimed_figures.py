"""What README.md and docs/benchmarks.md say of the paper's claims is what `monosem reproduce` found."""

import re
from collections.abc import Callable
from statistics import median
from typing import Any

import pytest
from figures import PAGES, RESULT_PAGES, result, table


def _found(record: dict[str, Any]) -> Callable[[str], str]:
    """What a reproduction found, by the beginning of the claim: the first that begins so."""
    return lambda start: next(f["ours"] for f in record["findings"] if f["claim"].startswith(start))


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
    rows = {row[0]: row[-1] for row in table("docs/benchmarks.md", "| here, 200 M |")}
    one = _found(found)
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
    widest = next(d for d in found["dictionaries"] if d["name"] == "A/5")
    shares = [f"{widest[name] * 100:.1f} %" for name in ("ce_loss_recovered", "explained_variance")]
    assert [text for claim, text in rows.items() if claim.startswith("CE loss recovered")] == [", ".join(shares)]
    live = widest["d_sae"] - widest["dead"] - widest["ultralow"]
    (printed,) = [text for claim, text in rows.items() if claim.startswith("live features")]
    assert printed.startswith(f"{live:,} above") and printed.endswith(f"; {widest['dead']:,} silent")
    assert widest["ultralow_bound"] == 1e-6
    main = next(d for d in found["dictionaries"] if d["name"] == "A/1")
    words = " ".join(PAGES["docs/benchmarks.md"].read_text(encoding="utf-8").split())
    assert (
        f"CE loss recovered {main['ce_loss_recovered'] * 100:.1f} %, explained variance "
        f"{main['explained_variance'] * 100:.1f} %, {main['dead'] / main['d_sae'] * 100:.1f} % silent" in words
    )


def test_explanations_and_automata_of_a_second_run():
    found, first = result("reproduce_paper_second.json"), result("reproduce_paper.json")
    rows = {row[0]: row[-1] for row in table("docs/benchmarks.md", "| here, 200 M |")}
    one = _found(found)
    printed = lambda word: next(ours for claim, ours in rows.items() if word in claim and "second run" in claim)
    explained = re.findall(r"-?\d\.\d\d", one("Explanations predict the activations"))
    assert len(explained) == 3 and printed("explanations predict activations").startswith(", ".join(explained))
    predicted = re.findall(r"\d\.\d\d", one("From the explanation one can tell"))[:3]
    assert printed("next tokens").startswith(", ".join(predicted))
    alone, cycles = re.match(
        r"(\d+) features lead to themselves, (\d+ cycles of \d to \d)", one("Features form")
    ).groups()
    lift = one("Logit weights predict").split()[0]
    chained = f"{alone} of 512 lead to themselves, {cycles}; a raised token comes {lift} times as often"
    assert printed("automata") == chained
    shares = [next(d for d in r["dictionaries"] if d["name"] == "A/1")["ce_loss_recovered"] for r in (found, first)]
    words = " ".join(PAGES["docs/benchmarks.md"].read_text(encoding="utf-8").split())
    assert f"recovers {shares[0] * 100:.2f} % of the CE loss, as the first ({shares[1] * 100:.2f} %)" in words


def test_what_a_second_run_finds_too():
    found = result("reproduce_paper_second.json")
    words = " ".join(PAGES["docs/benchmarks.md"].read_text(encoding="utf-8").split())
    one = _found(found)
    assert found["missing"] == ["rate", "dictionary-A-5"]
    assert "all but 131,072 features and the page for rating by hand" in words
    labels = ("Arabic", "Hebrew", "DNA", "base64")
    followed = " / ".join(one(f"A feature responds to {label}:")[:4] for label in labels)
    specific = ", ".join(re.findall(r"(\d+)% against", one("Features are more specific"))[:3])
    matched, neurons = (one(f"{side} of one model have a counterpart").split()[-1] for side in ("Features", "Neurons"))
    closest = one("Features are not neurons").split()[0]
    for text in (
        f"follow their proxies with {followed} (",
        f"are specific in {specific} %, and match those of B with {matched} (neurons: {neurons})",
        f"the closest neuron has {closest} in the median",
    ):
        assert text in words
    for label, hits in (("base64", "10 of 10"), ("Arabic", "0 of 10")):
        pinned = [f["ours"] for f in found["findings"] if f["claim"].startswith(f"The {label} feature, pinned")]
        assert [text.split(" samples")[0] for text in pinned if "at 1×" in text] == [hits, hits]
    assert all(one(f"The {label} context").startswith("in those of 0 neurons") for label in labels[:2])


def test_widths_and_splitting_of_a_second_run():
    found = result("reproduce_paper_second.json")
    rows = {row[0]: row[-1] for row in table("docs/benchmarks.md", "| here, 200 M |")}
    one = _found(found)
    (printed,) = [text for claim, text in rows.items() if claim.startswith("… 16,384 features")]
    wide = next(d for d in found["dictionaries"] if d["name"] == "A/2")
    assert printed == f"{wide['ce_loss_recovered'] * 100:.1f} %, {wide['explained_variance'] * 100:.1f} %"
    (printed,) = [text for claim, text in rows.items() if claim.startswith("… of 16,384 TopK")]
    live, bound = re.match(r"(\S+) live features", one("Far more features"))[1], "no ultralow cluster; bound 1.0e-06"
    assert printed.startswith(f"{live} above a density of 10⁻⁶")
    assert any(bound in f["how"] for f in found["findings"] if f["claim"].startswith("Far more"))
    (printed,) = [text for claim, text in rows.items() if claim.startswith("base64 features at 512, 4,096, 16,384 (")]
    first, second, third, more = map(int, re.findall(r"\d+", one("base64 splits")))
    mostly = ", ".join(re.findall(r"\d+", one("Features that fire mostly")))
    assert printed == f"{first}, {second}, {third + more}, by closest parent; {mostly} that fire mostly on it"
    (printed,) = [text for claim, text in rows.items() if claim.startswith("features of 512 that become several")]
    assert printed == "; ".join(one(f"Features of {n} become").split(" of ")[0] for n in ("512", "4,096"))
    (printed,) = [text for claim, text in rows.items() if claim.startswith("features lie in clusters")]
    assert printed == one("Features lie in clusters").split(";")[0].replace("%", " %")
    features = {(f["level"], f["feature"]): f for f in found["features"]}
    whole = [features[at]["recall"] for at in ((0, 271), (1, 3631), (2, 2701))]
    assert {f"{recall:.0%}" for recall in whole} == {"98%"}
    words = {at: feature["words"] for at, feature in features.items()}
    assert all("AAAAAAAA" in words[at] for at in ((1, 1613), (2, 2285), (2, 13672)))
    assert all("".join(words[at]).isdigit() for at in ((1, 533), (2, 12746)))
    assert words[1, 3973][:4] == ["j", "w", "v", "z"] and set(words[2, 6283][:4]) == set("gjwz")


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


MATCHED = ("features", "neurons", "random directions")


def test_counterparts_over_sparsity():
    found = result("universality.json")
    medians = {row["l1_coefficient"]: [row["matches"][n]["quantiles"][2] for n in MATCHED] for row in found["rows"]}
    assert table("docs/benchmarks.md", "| λ | L0 | CE loss recovered |") == [
        [
            f"{row['l1_coefficient']:g}",
            f"{row['evaluation']['l0']:.1f}",
            f"{row['evaluation']['ce_loss_recovered'] * 100:.1f} %",
            f"{row['evaluation']['above_1_percent']}",
            f"{row['matches']['features']['compared']:,}",
            *(f"{median:.2f}" for median in medians[row["l1_coefficient"]]),
        ]
        for row in found["rows"]
    ]
    words = " ".join(PAGES["docs/benchmarks.md"].read_text(encoding="utf-8").split())
    sizes = found["training"]
    assert (
        f"{sizes['steps'] * 4096 / 1e6:.0f} million activations each, compared on {found['rows'][0]['tokens']:,} tokens"
        in words
    )
    own, neurons, _ = medians[2.4e-3]
    (row,) = [cells for cells in table("docs/benchmarks.md", "| here, 200 M |") if "ReLU features, λ" in cells[0]]
    assert row[2] == f"{own:.2f}; {neurons:.2f}" and own >= 0.6 and own - neurons >= 0.2
    as_sparse = found["rows"][-1]
    own, neurons, _ = medians[as_sparse["l1_coefficient"]]
    (row,) = [cells for cells in table("docs/benchmarks.md", "| here, 200 M |") if "λ = 0.0036" in cells[0]]
    assert row[2] == f"{own:.2f}; {neurons:.2f}" and f"whose features match with {own:.2f}" in words
    assert round(as_sparse["evaluation"]["ce_loss_recovered"], 2) == 0.79 and as_sparse["l1_coefficient"] == 3.6e-3


def test_the_rarer_the_kind_the_less_a_neuron_follows_it():
    found = result("rarity.json")
    every, quarter, tenth = found["rows"]
    sides = lambda proxies: [[p[unit]["correlation"] for p in proxies["proxies"]] for unit in ("feature", "neuron")]
    pearson = lambda proxies: [f"{f:.2f} / {n:.2f}" for f, n in zip(*sides(proxies), strict=True)]
    share = lambda row: ", ".join(f"{s * 100:.2f}" for s in row["shares"].values()) + " %"
    _, *rows = table("docs/benchmarks.md", "| documents of these kinds |")
    assert rows == [
        ["all", share(every), "its own", *pearson(every["own"])],
        ["a quarter", share(quarter), "its own", *pearson(quarter["own"])],
        ["a quarter", share(quarter), "with all", *pearson(quarter["common"])],
        ["a tenth", share(tenth), "its own", *pearson(tenth["own"])],
        ["a tenth", share(tenth), "with all", *pearson(tenth["common"])],
    ]
    assert [row["kept"] for row in found["rows"]] == [1.0, 0.25, 0.1] and every["own"] == every["common"]
    words = " ".join(PAGES["docs/benchmarks.md"].read_text(encoding="utf-8").split())
    claims = table("docs/benchmarks.md", "| here, 200 M |")
    paper = [0.74, 0.55, 0.80, 0.38]
    for read, named, above in (
        (quarter["own"], "0.1 % of the text", 0.30),
        (tenth["common"], "0.04 to 0.09 % of its text", 0.29),
    ):
        features, neurons = sides(read)
        (row,) = [cells for cells in claims if named in cells[0]]
        assert row[2] == "; ".join(" / ".join(f"{r:.2f}" for r in side) for side in (features, neurons))
        assert min(f - n for f, n in zip(features, neurons, strict=True)) >= above
        assert f"every feature is at least {above:.2f} above" in words
        assert sum(f >= p for f, p in zip(features, paper, strict=True)) == 3
    least, most = (pick(tenth["shares"].values()) * 100 for pick in (min, max))
    assert f"on {least:.2f} to {most:.2f} % of its text" in claims[3][0]
    assert "three of the four are at least" in words and "three are as high as the paper's" in words
    highest = lambda read: f"{max(sides(read)[1]):.2f}"
    assert f"no neuron is above {highest(quarter['own'])}" in words
    assert f"no neuron is above {highest(tenth['own'])}, nor above {highest(tenth['common'])} on the text" in words
    arabic, hebrew = (p["neuron"] for p in quarter["own"]["proxies"][:2])
    assert arabic["index"] == hebrew["index"] and f"fires on {arabic['density'] * 100:.1f} % of the tokens" in words
    base64 = [row["common"]["proxies"][3]["neuron"]["correlation"] for row in (every, quarter)]
    assert f"best neuron has {base64[1]:.2f} instead of {base64[0]:.2f} with a quarter" in words
    dna = tenth["own"]["proxies"][2]
    assert f"({round(dna['base_rate'] * tenth['own']['tokens'], -2):.0f} tokens)" in words
    assert 3 <= 1 / dna["feature"]["specificity"] - 1 < 3.5 and "fires on other tokens three times as often" in words
    low, high = dna["feature"]["correlation_interval"]
    assert f"is from {low:.2f} to {high:.2f}" in words
    (of_a,) = [cells[2].split(" / ") for cells in claims if cells[0] == "… the best neuron"]
    hebrew = f"({of_a[1]} instead of {every['own']['proxies'][1]['neuron']['correlation']:.2f})"
    assert f"Hebrew less {hebrew}, DNA and base64 more ({of_a[2]} and {of_a[3]})" in words
    spans = [[p["neuron"]["correlation_interval"] for p in row["common"]["proxies"]] for row in found["rows"]]
    lower = lambda row: [below[1] < above[0] for above, below in zip(spans[0], spans[row], strict=True)]
    assert lower(1) == [False, False, False, True] and lower(2) == [True] * 4
    assert "with a tenth, those of all four kinds are lower beyond the 95 % intervals" in words


def test_how_base64_splits():
    found = result("splitting.json")
    families = [[f for f in found["features"] if f["level"] == level and f["in_family"]] for level in range(4)]
    count = lambda holds: [str(sum(map(holds, family))) for family in families]
    rows = {
        cells[0]: cells[1:] for cells in table("docs/benchmarks.md", "| features | 512 | 4,096 | 16,384 | 131,072 |")
    }
    assert list(rows.values()) == [
        [f"{e['l0']:.1f}" for e in found["evaluations"]],
        [f"{e['ce_loss_recovered'] * 100:.1f} %" for e in found["evaluations"]],
        [str(n) for n in found["family"]],
        count(lambda f: f["source"].startswith("base64")),
        count(lambda f: f["precision"] >= 0.5),
        [str(level["label_features"]) for level in found["levels"]],
        [str(n) for n in found["joined"]],
        [f"{median(f['recall'] for f in family) * 100:.0f} %" for family in families],
    ]
    assert found["family"] == [len(family) for family in families] == sorted(set(found["family"]))  # it grows
    (row,) = [cells for cells in table("docs/benchmarks.md", "| here, 200 M |") if "131,072, ReLU (" in cells[0]]
    assert row[2] == f"{', '.join(rows['family'])}, by closest parent"
    paragraph = PAGES["docs/benchmarks.md"].read_text(encoding="utf-8").split("### How the base64 feature splits")[1]
    paragraph = " ".join(paragraph.split())
    read, held_out = found["tokens"], found["evaluations"][0]["tokens"]
    assert f"On {read:,} tokens two" in paragraph and f"of {held_out:,} held-out tokens" in paragraph
    assert f"λ = {found['training']['l1']}, {found['training']['steps'] * 4096 / 1e6:.1f} million" in paragraph
    words = {f["feature"]: f["words"] for f in families[3]}
    assert [set("".join(words[83564][:3])), words[34976][:2], words[107757][:3]] == [{"A"}, ["5", "3"], ["H", "V", "Q"]]
    assert sum(f["precision"] < 0.05 for f in families[3]) == 14 and f"its {len(families[3])} hardly" in paragraph
    assert families[0][0]["feature"] == 50 and families[0][0]["precision"] < 0.5


def test_how_long_reproduction_takes(capsys):
    from monosem.cli.main import main

    expected = f"{result('reproduce_small.json')['machine']['minutes']:.0f} minutes on two cores"
    with pytest.raises(SystemExit):
        main(["reproduce", "--help"])
    assert expected in " ".join(capsys.readouterr().out.split())
    assert expected in " ".join(PAGES["docs/benchmarks.md"].read_text(encoding="utf-8").split())
