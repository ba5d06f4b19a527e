"""A path of the wrong kind: an error of one line that names it."""

import pytest

from monosem.cli.main import main


@pytest.mark.parametrize("below", ["", "/x"])
@pytest.mark.parametrize(
    "command", [["harvest"], ["train", "--d-sae", "64", "--k", "4"], ["lm", "train"]], ids=lambda v: v[0]
)
def test_a_file_instead_of_a_folder_is_refused(tmp_path, capsys, command, below):
    (tmp_path / "t.jsonl").write_text('{"text": "the cat sat on the mat"}\n' * 200)
    there = (tmp_path / "t.jsonl").read_bytes()
    command = [*command, "--text", str(tmp_path / "t.jsonl"), "--out", f"{tmp_path}/t.jsonl{below}", "--quiet"]
    assert main(command) == 2
    output = capsys.readouterr().err.strip().splitlines()
    assert f"{str(tmp_path / 't.jsonl')!r} is a file; wanted a folder there" in output[-1] and "Traceback" not in output
    assert (tmp_path / "t.jsonl").read_bytes() == there
