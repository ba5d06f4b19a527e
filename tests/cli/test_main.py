"""The command itself: help without PyTorch, and suggestions for misspelled names."""

import re
import subprocess
import sys

import pytest

from monosem.cli.main import COMMANDS, main

# Every help in one process in which PyTorch and numpy cannot be imported at all, but that of train: it lists the kinds
# that are registered, which are classes of PyTorch.
HELP = """
import sys
sys.modules["torch"] = sys.modules["numpy"] = None
from monosem.cli.main import COMMANDS, main
for argv in [["--help"], *([command, "--help"] for command in COMMANDS if command != "train")]:
    try:
        main(argv)
    except SystemExit as end:
        assert end.code == 0, argv
"""


def test_help_needs_no_torch():
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    training = subprocess.run(
        [sys.executable, "-m", "monosem.cli.main", "train", "--help"], capture_output=True, text=True
    )
    assert training.returncode == 0, training.stderr
    shown = done.stdout + training.stdout
    for command in COMMANDS:
        assert f"usage: monosem {command} " in shown
    # Defaults are shown as they are typed, and none where there is none.
    assert "(default: bos pad)" in shown and not re.search(r"\(default: (\)|\[|\(|\{|None|False)", shown)


def test_every_public_name_is_found():
    import monosem

    for name in monosem.__all__:
        assert getattr(monosem, name) is not None, name
    assert set(monosem.__all__) == {*monosem._HOME, "ops"}


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        (["evalute"], "evaluate"),
        (["hook"], "hooks"),
        (["train", "--out", "x", "--stesp", "5"], "--steps"),
        (["harvest", "--out", "x", "--modle=B"], "--model"),
        (["reproduce", "--preset", "smal"], "small"),
    ],
)
def test_did_you_mean(argv, meant, capsys):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert f"Did you mean '{meant}'" in capsys.readouterr().err
