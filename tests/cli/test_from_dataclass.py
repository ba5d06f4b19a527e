"""Options made of the fields of dataclasses, and that each setting of training has one."""

import argparse
from dataclasses import dataclass, fields
from typing import Literal, get_args

import pytest

from monosem.cli import from_dataclass, lm, train
from monosem.cli.help import Help
from monosem.cli.main import _Parser, main
from monosem.data.lm_config import LMConfig
from monosem.ops.adam import STATES
from monosem.train import config as train_config
from monosem.train.config import AdamState, TrainConfig
from monosem.train.lm import HEAD_DTYPES
from monosem.train.lm_config import HeadDtype, LMTrainConfig


@dataclass(frozen=True)
class Example:
    """An example.

    Attributes:
        rate: how fast, in 5 % of
            ``x``.
        limit: the largest; None: no limit.
        fast: whether.
        slow: whether not.
        how: the way.
        span: a length of time.
        sizes: of all.
        pair: of two.
    """

    rate: float = 0.5
    limit: int | None = None
    fast: bool = False
    slow: bool = True
    how: Literal["a", "b"] = "a"
    span: int | float = 0.02
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[float, float] = (0.9, 0.99)
    name: str = "n"


def parser_of(config, **more):
    parser = _Parser(prog="x", formatter_class=Help)
    from_dataclass.add_options(parser, config, **more)
    return parser


def test_every_type_has_an_option():
    parser = parser_of(Example)
    assert from_dataclass.build(Example, parser.parse_args([])) == Example()
    words = "--rate 2 --limit 3 --fast --no-slow --how b --span 200 --sizes 4 5 6 --pair 0.1 0.2 --name m"
    got = from_dataclass.build(Example, parser.parse_args(words.split()))
    assert got == Example(2.0, 3, True, False, "b", 200, (4, 5, 6), (0.1, 0.2), "m") and isinstance(got.span, int)
    assert isinstance(parser.parse_args(["--span", "1.0"]).span, float)
    assert from_dataclass.build(Example, parser.parse_args([]), rate=7.0).rate == 7


def test_help_is_the_docstring_with_defaults_in_words():
    shown = " ".join(parser_of(Example, name={"help": "a name", "default": "other"}).format_help().split())
    for text in (
        "--rate X how fast, in 5 % of x (default: 0.5)",
        "--limit N the largest (default: no limit)",
        "--fast whether --slow, --no-slow whether not (default: yes)",
        "--how {a,b} the way (default: a)",
        "--span X a length of time (default: 0.02)",
        "--sizes N [N ...] of all (default: 1 2)",
        "--name NAME a name (default: other)",
    ):
        assert text in shown, text


def test_a_type_without_an_option_is_an_error_unless_left_out():
    @dataclass
    class Odd:
        table: "dict[str, int] | None" = None

    with pytest.raises(TypeError, match=r"got a field of type dict.*wanted it in `without`"):
        parser_of(Odd)
    assert not hasattr(parser_of(Odd, without=["table"]).parse_args([]), "table")


@dataclass(frozen=True, kw_only=True)
class More(TrainConfig):
    """A setting more.

    Attributes:
        momentum: of a new kind.
    """

    momentum: float = 0.25


def test_a_new_field_of_the_configuration_is_an_option_at_once(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(train_config, "TrainConfig", More)
    (tmp_path / "run.yaml").write_text("momentum: 0.5")
    assert main(["train", "--config", str(tmp_path / "run.yaml"), "--print-config"]) == 0
    assert "# of a new kind (default: 0.25)\nmomentum: 0.5\n" in capsys.readouterr().out
    (tmp_path / "run.yaml").write_text("momentum: fast")
    assert main(["train", "--config", str(tmp_path / "run.yaml"), "--out", "x"]) == 2
    assert "momentum: got 'fast'; wanted a number" in capsys.readouterr().err
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    args = parser.parse_args(["--out", "x", "--momentum", "0.75"])
    assert from_dataclass.build(More, args, steps=7, sparsity_warmup=0, resample=None).momentum == 0.75


def test_every_setting_of_training_has_an_option_with_its_default_and_help():
    parser, language = argparse.ArgumentParser(), argparse.ArgumentParser()
    train.add_arguments(parser)
    lm.add_arguments(language)
    (actions,) = language._subparsers._group_actions
    for made, configs in ((parser, (TrainConfig,)), (actions.choices["train"], (LMTrainConfig, LMConfig))):
        options = {action.dest: action for action in made._actions}
        for field in [f for config in configs for f in fields(config)]:
            assert options[field.name].help, field.name
            if field.name not in ("steps", "sparsity_warmup", "resample"):  # decided by the data, the kind, the length
                assert options[field.name].default == field.default, field.name


def test_names_of_precisions_are_those_of_the_operations():
    assert get_args(AdamState) == STATES and set(get_args(HeadDtype)) == set(HEAD_DTYPES)


def test_a_wrong_time_is_one_line(capsys):
    with pytest.raises(SystemExit):
        parser_of(Example).parse_args(["--span", "soon"])
    said = capsys.readouterr().err
    assert "argument --span: got 'soon'; wanted steps (200) or a share of the run (0.02)" in said
