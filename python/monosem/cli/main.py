"""``monosem``: imports the module of the given command only, and turns errors into one line."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from typing import NoReturn

from monosem.cli import config_file, options
from monosem.cli.device import check_device
from monosem.cli.errors import say
from monosem.cli.help import Help
from monosem.data.nearest import did_you_mean

COMMANDS = {
    "demo": "train a dictionary on the shipped model and text, and write a report of its features",
    "lm": "train, evaluate or sample the small language models",
    "hooks": "list the hooks of a model, their widths, and those usual for dictionaries",
    "harvest": "write the activations of a model at one hook to disk",
    "train": "train a dictionary on activations",
    "evaluate": "measure L0, explained variance, CE loss recovered and dead features",
    "index": "read text once and store examples and statistics of every feature",
    "features": "write a browser of all features: search, examples, logits, relatives",
    "explain": "explain features and neurons, and test the explanations",
    "rate": "rate features and neurons by hand, blindly, and score the answers",
    "proxies": "find the features that follow a script, DNA, base64, or your own pattern",
    "probe": "tell labelled texts apart by a few features: k-sparse probing",
    "automata": "find loops, cycles and chains of features that raise each other's tokens",
    "neurons": "compare each feature with its closest neuron",
    "widths": "count live features and loss recovered against the width of the dictionary",
    "steer": "pin, add or ablate features while the model writes or reads",
    "compare": "match the features of two models",
    "split": "show how features split as a dictionary grows",
    "export": "write a dictionary in the files of another library, or upload it to Hugging Face",
    "reproduce": "compute every claim of the paper next to your own figures: report.html",
    "profile": "time each phase of a run's own training step, against the floor of this machine",
    "bench": "time a training step here, next to plain PyTorch and the floor of this machine",
    "doctor": "report what was built, what this machine has, and which backend is used",
}


def parser() -> argparse.ArgumentParser:
    """The top-level parser; a command's own options are added when that command is chosen."""
    top = _Parser(
        prog="monosem",
        description="Fast sparse autoencoders for PyTorch. Begin with `monosem demo`.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n"
        + "\n".join(f"  {name:10} {what}" for name, what in COMMANDS.items())
        + "\n\n`monosem COMMAND --help` explains a command.",
    )
    top.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="the command (see below)")
    return top


class _Parser(argparse.ArgumentParser):
    """Suggests names for a command, option or choice that does not exist."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: "):
            known = [option for action in self._actions for option in action.option_strings]
            wrong = [word.split("=")[0] for word in message.split(": ", 1)[1].split() if word.startswith("--")]
            message += "." + "".join(did_you_mean(word, known) for word in wrong)
        elif choice := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)$", message):
            message += "." + did_you_mean(choice[1], [word.strip(" '") for word in choice[2].split(",")])
        super().error(message)


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns 0, or 2 after an error that the user can mend, or 130 after Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    command = parser().parse_args(argv[:1]).command
    module = importlib.import_module(f"monosem.cli.{command}")
    own = _Parser(prog=f"monosem {command}", description=COMMANDS[command], formatter_class=Help)
    module.add_arguments(own)
    options.add_import(own)
    args = argparse.Namespace()
    try:
        args = config_file.parse(own, argv[1:])
        if getattr(args, "print_config", False):
            print(args.as_config, end="")
            return 0
        if args.imports:
            from monosem.nn.registry import import_modules

            import_modules(args.imports)
        if command != "harvest" and "://" in str(getattr(args, "out", "")):
            raise ValueError(
                f"out: got {args.out!r}; wanted a folder on this machine's disks. "
                "Only `monosem harvest` writes elsewhere."
            )
        options.name_model(args)
        if getattr(args, "device", None):
            check_device(args.device)
        return module.run(args)
    except Exception as error:  # no traceback reaches a user who did not ask for it
        return say(command, error, args)
    except KeyboardInterrupt:
        print(f"monosem {command}: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
