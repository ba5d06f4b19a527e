"""monosem hooks."""

from monosem.cli.main import main
from monosem.data.models import load_model


def test_every_hook_has_a_line_with_its_width(capsys):
    assert main(["hooks", "--model", "A"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == load_model("A").hook_names
    (neurons,) = (line for line in lines if line.startswith("blocks.0.mlp.hook_post"))
    assert neurons.split()[1] == "512" and "neurons" in neurons


def test_only_the_usual(capsys):
    assert main(["hooks", "--usual"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert 0 < len(lines) < len(load_model("A").hook_names) and all(len(line.split()) > 2 for line in lines)
