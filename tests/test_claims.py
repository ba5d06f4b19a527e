"""The listings of the claims agree: commands, recipes on the pages, stages of the reproduction, documentation."""

import re
from pathlib import Path

from monosem.analysis.evidence.recipes import RECIPES
from monosem.cli.main import COMMANDS
from monosem.reproduce.context import Context
from monosem.reproduce.presets import PRESETS
from monosem.reproduce.stages import all_stages, claims

DOCUMENT = Path(__file__).parent.parent / "docs" / "claims.md"
FROM_TRAINING = {"report"}  # the loss: measured as dictionaries are trained, not by a stage of its own


def rows():
    """(command, function, page) of each row of the table in docs/claims.md."""
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    table = [[cell.strip() for cell in line.split("|")[2:5]] for line in lines if line.startswith("| ")][1:]
    above = ["", "", ""]
    for cells in table:
        above = [old if cell == "the same" else cell for old, cell in zip(above, cells, strict=True)]
        yield tuple(re.match(r"`(.+?)`", cell)[1] for cell in above)


def test_the_document_lists_the_guides_in_their_order():
    assert list(rows()) == [(recipe.command, recipe.function, recipe.page) for recipe in RECIPES.values()]


def test_every_guide_has_a_command():
    assert {recipe.command.split()[1] for recipe in RECIPES.values()} <= set(COMMANDS)


def test_every_guide_has_a_stage_and_every_stage_a_guide(tmp_path):
    context = Context(tmp_path, PRESETS["small"])
    measured = {claim.stage.name.split("-")[0] for claim in claims(context)}
    assert measured == {Path(recipe.page).stem for recipe in RECIPES.values()} - FROM_TRAINING
    names = [stage.name for stage in all_stages(context)]
    assert {claim.stage.name for claim in claims(context)} <= set(names) and len(names) == len(set(names))


def test_a_claim_that_needs_a_second_model_is_left_out_without_one(tmp_path):
    alone = Context(tmp_path, PRESETS["small"], other=None)
    assert "universality" not in {claim.stage.name for claim in claims(alone)}
