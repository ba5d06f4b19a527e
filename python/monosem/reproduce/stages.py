"""Every claim of the paper as a stage: its measurement, its dictionaries, and its sections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from monosem.analysis.dashboard import write_site
from monosem.analysis.dashboard.overlays import automaton_links, proxy_marks
from monosem.analysis.evidence import (
    automata,
    compare,
    compare_page,
    neurons,
    neurons_page,
    proxies,
    split,
    split_page,
    steer,
    steer_judges,
    steer_page,
    widths,
    widths_page,
)
from monosem.analysis.evidence import explain as explaining
from monosem.analysis.evidence.rate import candidates, write_study
from monosem.analysis.evidence.section import Section, numbered_in
from monosem.analysis.index import IndexSettings, build_index
from monosem.analysis.inputs import load_subject
from monosem.analysis.sources import paper_groups, sources_read
from monosem.reproduce import training
from monosem.reproduce.context import Context
from monosem.reproduce.presets import CONTROL, FIRST
from monosem.reproduce.runner import Stage

PROMPTS = ("1,2,3,4,5,6,7,8,9,10", "Once upon a time there was a", '<div class="note"><a href="x.html">')
LABEL_PROMPTS = {"Arabic": "قال الملك"}  # where the text has that label
RATED = 20  # of each kind, on the page for rating by hand


@dataclass(frozen=True)
class Claim:
    """A claim of the paper: its stage, and the functions that make sections of the report from its result."""

    stage: Stage
    sections: tuple[Callable[[dict[str, Any]], Section], ...] = ()


def claims(context: Context) -> list[Claim]:
    """In the order of the report. ``page.py`` adds the two that have no stage: the loss, and ratings by hand."""
    small, main = context.preset.of(FIRST)[0].name, context.preset.main
    kinds_of_text = Stage("proxies", "kinds of text: which feature follows which", _proxies)
    explained = Stage("explain", "automated interpretability, with the local interpreter", _explain)
    listed = [
        Claim(kinds_of_text, (proxies.section,)),
        Claim(explained, (explaining.section, explaining.logit_section)),
        Claim(Stage("rate", "the page for rating by hand", _rate)),
        Claim(Stage("neurons", "are the features just neurons?", _neurons), (neurons_page.section,)),
        Claim(Stage("steering", "steering by features", _steering), (steer_page.section,)),
        Claim(Stage("universality", "the same features in another model", _universality), (compare_page.section,)),
        Claim(Stage("splitting", "how features split", _splitting), (split_page.section,)),
        Claim(Stage("widths", "live features against width", _widths), (widths_page.section,)),
        Claim(_automata_stage(small), (lambda result: numbered_in(automata.section(result), small),)),
        Claim(_automata_stage(main)),
    ]
    return [c for c in listed if c.stage.name != "universality" or context.other is not None]


ALL_WIDTHS = ("splitting", "widths")  # claims about dictionaries that are wider than the main one


def all_stages(context: Context) -> list[Stage]:
    """Training, then the indexes that several claims read, then one stage per claim, and the browser.

    Dictionaries that are wider than the main one take longest: they come last, and then the claims about them.
    """
    indexed = [context.preset.main, "neurons", *(r.name for r in context.runs if r.model == CONTROL)]
    most = context.preset.run(context.preset.main).d_sae
    of_claims = [claim.stage for claim in claims(context)]
    return [
        *training.stages(run for run in context.runs if run.d_sae <= most),
        *(Stage(f"index-{n.replace('/', '-')}", f"reading text with {n}", _reader(n)) for n in indexed),
        *(stage for stage in of_claims if stage.name not in ALL_WIDTHS),
        Stage("features", "the browser of all features", _features),
        *training.stages(run for run in context.runs if run.d_sae > most),
        *(stage for stage in of_claims if stage.name in ALL_WIDTHS),
    ]


def sections(context: Context, results: dict[str, dict[str, Any]]) -> list[Section]:
    """The sections of the report, in the order of the paper's claims, from stored results."""
    measured = [claim for claim in claims(context) if claim.stage.name in results]
    return [make(results[claim.stage.name]) for claim in measured for make in claim.sections]


def subject_of(context: Context, name: str) -> Any:
    """A dictionary of this reproduction, or ``"neurons"``: those of the first model."""
    if name != "neurons":
        return context.subject(name)
    return load_subject("neurons:", context.language_model(FIRST), context.hook_name)


def index_of(context: Context, name: str) -> Any:
    """The index of :func:`subject_of`'s dictionary: built on first use, resumed after an interruption."""
    subject = subject_of(context, name)
    neurons = name == "neurons"
    folder = context.folder / "dictionaries" / "neurons" if neurons else context.dictionary(name)
    return build_index(
        subject,
        context.train,
        folder / "index",
        tokens=context.preset.index_tokens,
        settings=IndexSettings(neurons=not neurons, codes=not neurons, seed=context.seed),
        progress=context.progress,
    )


def _reader(name: str):
    def work(context: Context) -> dict[str, Any]:
        index = index_of(context, name)
        return {"tokens": index.tokens, "features": index.d_sae, "alive": int((index.counts > 0).sum())}

    return work


def _proxies(context: Context) -> dict[str, Any]:
    tokens = context.preset.compare_tokens
    main = context.subject(context.preset.main)
    return proxies.measure(main, context.train, tokens=tokens, seed=context.seed, progress=context.progress).to_dict()


def _neurons(context: Context) -> dict[str, Any]:
    main, tokens = context.subject(context.preset.main), context.preset.compare_tokens
    return neurons.measure(main, context.train, tokens=tokens, progress=context.progress).to_dict()


def _compared(context: Context) -> dict[str, str]:
    """Kind → dictionary: features, neurons, and the control where there is one."""
    control = next((r.name for r in context.runs if r.model == CONTROL), None)
    return {"features": context.preset.main, "neurons": "neurons"} | ({"shuffled": control} if control else {})


def _explain(context: Context) -> dict[str, Any]:
    cases, described = [], {}
    for kind, name in _compared(context).items():
        subject, index = subject_of(context, name), index_of(context, name)
        chosen = explaining.choose_features(index, context.preset.explained, context.seed)
        cases += explaining.gather(
            subject, index, index.rows, chosen, kind, seed=context.seed, progress=context.progress
        )
        described[kind] = {
            "model": subject.model.name,
            "hook_name": subject.hook_name,
            "d_sae": subject.sae.cfg.d_sae,
            "kind": subject.sae.cfg.kind,
            "tokens": index.tokens,
            "features": len(chosen),
            "sources": sources_read(index.rows),
        }
    result = explaining.measure(cases, explaining.LocalInterpreter(), subjects=described, seed=context.seed)
    return result.to_dict() | {"requests": {}}


def _rate(context: Context) -> dict[str, Any]:
    items = []
    for kind, name in _compared(context).items():
        index = index_of(context, name)
        chosen = explaining.choose_features(index, RATED, context.seed)
        items += candidates(subject_of(context, name), index, index.rows, chosen, kind, progress=context.progress)
    folder = context.folder / "rate"
    folder.mkdir(parents=True, exist_ok=True)
    write_study(folder, items, context.seed, sources_read(context.train))
    return {"items": len(items)}


def _steering(context: Context) -> dict[str, Any]:
    subject, index = context.subject(context.preset.main), index_of(context, context.preset.main)
    groups = steer.labels_of(index)
    # The features of the stage "proxies", which reads the same tokens.
    followed = proxies.label_features(
        subject, context.train, groups, index.moments, tokens=context.preset.compare_tokens, progress=context.progress
    )
    if not followed:  # a text of one source, for example: the section reports it
        none = steer.SteeringResult(
            subject.model.name,
            subject.hook_name,
            str(subject.sae.cfg.kind),
            subject.sae.cfg.d_sae,
            index.tokens,
            length=0,
            temperature=1.0,
            error="keep",
            judged="",
            cases=(),
            sources=tuple(sources_read(index.rows)),
        )
        return none.to_dict()
    judges = steer_judges.proxy_judges(subject.model, index.rows, groups)
    return steer.measure(
        subject,
        index,
        judges=judges,
        groups=groups,
        features=followed,
        seed=context.seed,
        judged=steer.JUDGED,
        progress=context.progress,
    ).to_dict()


def _universality(context: Context) -> dict[str, Any]:
    a, b = context.subject(context.preset.main), context.subject(context.preset.main.replace(FIRST, "B", 1))
    options = {"tokens": context.preset.compare_tokens, "seed": context.seed, "progress": context.progress}
    return compare.measure(a, b, context.train, **options).to_dict()


def _splitting(context: Context) -> dict[str, Any]:
    names = [run.name for run in context.preset.of(FIRST)]
    return split.measure(
        [context.subject(n) for n in names],
        context.train,
        names=names,
        tokens=context.preset.compare_tokens,
        progress=context.progress,
    ).to_dict()


def _widths(context: Context) -> dict[str, Any]:
    return widths.measure(
        {run.name: context.subject(run.name) for run in context.preset.of(FIRST)},
        context.train,
        tokens=100_000,
        density_tokens=context.preset.compare_tokens,
        progress=context.progress,
    ).to_dict()


def _automata_stage(name: str) -> Stage:
    def work(context: Context) -> dict[str, Any]:
        tokens = context.preset.compare_tokens
        subject = context.subject(name)
        return automata.measure(subject, context.train, tokens=tokens, progress=context.progress).to_dict()

    return Stage(f"automata-{name.replace('/', '-')}", f"finite-state automata of {name}", work)


def _features(context: Context) -> dict[str, Any]:
    main = context.preset.main
    subject, index = context.subject(main), index_of(context, main)
    labelled = [p for label, p in LABEL_PROMPTS.items() if label in paper_groups(sources_read(index.rows))]
    prompts = [p for p in (*PROMPTS, *labelled) if len(subject.model.encode(p)) < subject.model.n_ctx]
    page = write_site(
        subject,
        index,
        context.folder / "features",
        prompts=prompts,
        marks=proxy_marks(subject.model, index),
        following=automaton_links(context.evidence(f"automata-{main.replace('/', '-')}")),
        progress=context.progress,
    )
    return {"page": page.relative_to(context.folder).as_posix(), "features": index.d_sae}
