"""``--config`` and ``--print-config``: what a file says, what the command line says, and what neither may say."""

import subprocess
import sys

import pytest
import yaml

from monosem.cli import config_file, harvest, lm, train
from monosem.cli.actions import Switch
from monosem.cli.main import _Parser, main

COMMANDS = {"train": train, "harvest": harvest, "lm": lm}


def parsed(argv):
    parser = _Parser(prog=argv[0])
    COMMANDS[argv[0]].add_arguments(parser)
    return config_file.parse(parser, argv[1:])


@pytest.fixture
def write(tmp_path):
    def write(text):
        (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
        return str(tmp_path / "run.yaml")

    return write


def test_a_file_is_as_the_command_line(write):
    path = write(
        "out: x\nhook: [a, b]\nd_sae: 64\nlr: 1e-3\nlr-warmup: 200\nlr_decay: 0.5\nskip_tokens: [bos, 5]\n"
        "skip_norm: 10\nstream: true\ncuda_graph: false\n"
        "set: {p: [0.5, 0.6], form: tanh, skip: true, prefixes: [[8, 64]]}\nk: 4\n"
        "from: earlier\ncontexts: 7\n"
    )
    words = "--out x --hook a b --d-sae 64 --lr 1e-3 --lr-warmup 200 --lr-decay 0.5 --skip-tokens bos 5 --skip-norm 10 "
    words += '--stream --no-cuda-graph --set p=0.5,0.6 form="tanh" skip=true prefixes=[8,64] --k 4 --from earlier'
    typed, read = parsed(["train", *words.split(), "--contexts", "7"]), parsed(["train", "--config", path])
    same = lambda args: {k: v for k, v in vars(args).items() if k not in ("config", "given", "as_config", "set")}
    assert same(typed) == same(read) and typed.as_config == read.as_config
    assert [s.replace(" ", "") for s in read.set] == typed.set
    assert typed.given - {"lr"} == read.given - {"config"}  # lr is the default: in a file, that is not given


def test_the_command_line_goes_before_the_file(write):
    path = write("out: x\ntokens: a.npy\nlr: 0.5\nlazy_rows: true\nlog: [wandb]\nk: [1, 2]\n")
    args = parsed(["train", "--config", path, "--lr", "0.25", "--no-lazy-rows", "--text", "t", "--k", "3"])
    assert (args.lr, args.lazy_rows, args.tokens, args.text, args.k) == (0.25, False, None, "t", [3])
    assert args.given == {"config", "out", "lr", "lazy_rows", "text", "log", "k"} and args.log == ["wandb"]


def test_required_options_may_be_in_the_file(write, capsys):
    assert parsed(["harvest", "--config", write("out: x")]).out == "x"
    with pytest.raises(SystemExit):
        parsed(["lm", "train", "--config", write("out: x")])
    assert "the following arguments are required: --text" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["train"],
        ["train", "--skip-norm", "none", "--set", "p=0.5,0.6", "form=tanh", "prefixes=[8,64]", "--clip", "1e-5"],
        [
            "train",
            "--text",
            "hf:a/b?name=c",
            "--log-name",
            "yes",
            "--skip-tokens",
            "--import",
            "one",
            "--import",
            "two",
        ],
        ["harvest", "--hook", "model.layers.*.mlp", "--skip-norm", "10", "--revision", "0123", "--out", "é: #x"],
        ["lm", "train", "--lr", "0.1", "--log", "wandb", "trackio"],
    ],
    ids=lambda words: words[-1],
)
def test_what_is_printed_is_read_back_to_the_same(words, write, capsys):
    assert main([*words, "--print-config"]) == 0
    printed = capsys.readouterr().out
    command = words[:2] if words[0] == "lm" else words[:1]
    assert main([*command, "--config", write(printed), "--print-config"]) == 0
    assert capsys.readouterr().out == printed
    held, given = yaml.safe_load(printed), {word[2:].replace("-", "_") for word in words if word.startswith("--")}
    assert given <= held.keys() and all(
        line.startswith("#") or ": " in line or not line for line in printed.split("\n")
    )


def test_json_is_read_too(write):
    assert parsed(["train", "--config", write('{"out": "x", "set": {"p": 0.5}}')]).set == ["p=0.5"]


WRONG = [
    ("lr: fast", "lr: got 'fast'; wanted a number"),
    ("d_sae: 10.5", "d_sae: got 10.5; wanted an integer"),
    ("k: [2, true]", "k: got True; wanted an integer"),
    ("k: []", "k: got []; wanted at least one value"),
    ("lr: [1, 2]", "lr: got [1, 2]; wanted a number"),
    ("lr: null", "lr: got None; wanted a number"),
    ("lr_warmup: soon", "lr_warmup: got 'soon'; wanted steps (200) or a share of the run (0.02)"),
    ("skip_norm: x", "skip_norm: got 'x'; wanted a multiple of the median norm, or none"),
    ("out: 5", "out: got 5; wanted text, in quotes where YAML takes it for something else"),
    ("revision: 2024-01-01", "revision: got datetime.date(2024, 1, 1); wanted text, in quotes"),
    ("stream: 1", "stream: got 1; wanted true or false"),
    ("decay_shape: linaer", "decay_shape: got 'linaer'; wanted 'linear' or 'cosine'. Did you mean 'linear'"),
    ("log: [wandb, tensorbord]", "log: got 'tensorbord'; wanted 'wandb' or 'tensorboard' or 'trackio'"),
    ("set: 3", "set: got 3; wanted settings of the kind by name, {name: value}"),
    ("batchsize: 3", "got the key 'batchsize'; wanted an option of monosem train. Did you mean 'batch_size'?"),
    ("config: x", "got the key 'config'; wanted an option"),
    ("1: 2", "got the key 1; wanted an option"),
    ("tokens: a\ntext: b", "got text and tokens; wanted one of them, as they exclude each other"),
    ("k: 1\nlr: 2\nk: 2", "line 3: 'k' is given twice; wanted YAML, each option once"),
    ("batch_size: 3\nbatch-size: 3", "line 2: 'batch-size' is given twice"),
    ("set: {p: 1, p: 2}", "line 1: 'p' is given twice"),
    ("a: b: c", "line 1: mapping values are not allowed here; wanted YAML"),
    ("out: !!python/object:os.system x", "could not determine a constructor for the tag"),
    ("- lr", "holds list; wanted the names of options with their values"),
    ("", "holds NoneType; wanted the names"),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[text for text, _ in WRONG])
def test_a_wrong_file_is_one_line(text, message, write, capsys):
    path = write(text)
    assert main(["train", "--config", path, "--out", "x"]) == 2
    said = capsys.readouterr().err
    assert f"monosem train: config: {path!r}" in said and message in said and said.count("\n") == 1


def test_a_missing_file_or_one_of_bytes_is_one_line(tmp_path, capsys):
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe\x00")
    assert main(["train", "--config", str(tmp_path / "none.yaml")]) == main(["train", "--config", str(tmp_path)]) == 2
    assert main(["train", "--config", str(tmp_path / "run.yaml")]) == 2
    missing, folder, binary = capsys.readouterr().err.splitlines()
    assert "config: no file" in missing and "is a folder; wanted a file" in folder and "is not UTF-8 text" in binary


def test_every_switch_can_be_taken_back():
    for command, module in COMMANDS.items():
        parser = _Parser(prog=command)
        module.add_arguments(parser)
        if command == "lm":
            parser = parser._subparsers._group_actions[0].choices["train"]
        for action in parser._actions:
            assert action.nargs != 0 or isinstance(action, Switch) or action.dest == "help", action.dest
            for name in action.option_strings if isinstance(action, Switch) else ():
                other = parser.parse_args([name, "--out", "x", *(["--text", "x"] if command == "lm" else [])])
                assert getattr(other, action.dest) is not name.startswith("--no-")


def test_printing_needs_no_torch():
    code = "import sys\nsys.modules['torch'] = sys.modules['numpy'] = None\nfrom monosem.cli.main import main\n"
    code += "assert main(['train', '--print-config']) == main(['lm', 'train', '--print-config']) == 0"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0
