"""``monosem explain``: automated interpretability of activations and of logit weights."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosem.cli import claim, provenance, subjects

if TYPE_CHECKING:
    from monosem.analysis.evidence.explain.chat import Chat


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Explain features and neurons from examples, and test each explanation on other examples: simulation "
        "(Spearman's rho over 60 x 9 tokens, also weighted by importance), detection, fuzzing, and the 100-token task "
        "of the logit weights. The interpreter is a language model behind any OpenAI-compatible address, or `local`: "
        "rules learned from the same examples, a baseline that needs neither a model nor a network. Writes "
        "explain.json and explain.html. Answers of a language model are stored; after a stop, the same command resumes."
    )
    parser.add_argument("folder", help="a dictionary written by `monosem train` or monosem.save")
    subjects.add_arguments(parser, 100)
    client = parser.add_argument_group("interpreter")
    client.add_argument("--client", default="local", metavar="local|URL", help="e.g. http://localhost:8000/v1")
    client.add_argument("--client-model", metavar="NAME", help="the model's name at that address")
    client.add_argument(
        "--key-variable",
        default="OPENAI_API_KEY",
        metavar="VARIABLE",
        help="environment variable that holds the key, if one is needed",
    )
    client.add_argument(
        "--ask",
        choices=("full", "brief"),
        default="full",
        help="full: examples as in the paper, one request for each feature and task; brief: for a small model or a "
        "short context, twelve examples and then one token or snippet in each request, some 700 for each feature",
    )
    client.add_argument(
        "--logprobs",
        choices=("auto", "yes", "no"),
        default="auto",
        help="read levels and choices from the probabilities of tokens; auto: where the endpoint gives them",
    )
    client.add_argument("--cache", metavar="FOLDER", help="folder of the stored answers (default: OUT/explain-cache)")
    client.add_argument("--concurrency", type=int, default=8, help="requests in flight at a time")
    client.add_argument("--retries", type=int, default=6, help="more attempts after 429, 5xx, time-outs, bad JSON")
    client.add_argument("--timeout", type=float, default=180.0, metavar="SECONDS", help="time limit per attempt")
    client.add_argument(
        "--price",
        type=float,
        nargs=2,
        metavar=("READ", "WRITE"),
        help="prices per million tokens read and written, for the estimate before the start",
    )
    client.add_argument(
        "--request",
        type=_object,
        default={},
        metavar="JSON",
        help='more fields of each request; null removes one: \'{"seed": null, "max_tokens": null}\'',
    )
    client.add_argument("--yes", action="store_true", help="start without asking for confirmation")


def run(args: argparse.Namespace) -> int:
    from monosem.analysis.evidence.explain import choose_features, gather, logit_section, measure, section
    from monosem.analysis.sources import sources_read

    out = claim.folder_of(args, args.folder)
    _check_client(args)
    cases, described = [], {}
    everyone = subjects.open_all(args)
    origin = provenance.of(args, {c.kind: (c.folder, c.subject) for c, _ in everyone})
    for compared, count in everyone:
        subject, index = compared.subject, compared.index
        chosen = choose_features(index, count, args.seed)
        cases += gather(
            subject,
            index,
            index.rows,
            chosen,
            compared.kind,
            seed=args.seed,
            progress=not args.quiet,
            skip_positions=index.meta["settings"]["skip_positions"],
        )
        described[compared.kind] = {
            "model": subject.model.name,
            "hook_name": subject.hook_name,
            "d_sae": subject.sae.cfg.d_sae,
            "kind": subject.sae.cfg.kind,
            "tokens": index.tokens,
            "features": len(chosen),
            "sources": sources_read(index.rows),
        }
    with _Interpreter(args, out) as interpreter:
        if not interpreter.agreed(cases):
            print("no request was sent")
            return 0
        result = measure(cases, interpreter.who, subjects=described, seed=args.seed)
        plain = result.to_dict() | {"requests": interpreter.usage()}
    model = described["features"]["model"] if "features" in described else next(iter(described.values()))["model"]
    runs = {"features": args.folder, **({"shuffled": args.shuffled} if args.shuffled else {})}
    title = f"Can the features of {model} be explained?"
    claim.write(out, "explain", result, [section, logit_section], title, runs, origin, plain=plain)
    return 0


def _object(text: str) -> dict[str, Any]:
    """A JSON object, for argparse. Rejected text is not shown: there may be a key in it."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"got text that is not JSON ({error}); wanted an object") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(
            f'got JSON of type {type(value).__name__}; wanted an object such as {{"top_p": 0.9}}'
        )
    return value


def _check_client(args: argparse.Namespace) -> None:
    """Check the options before anything long begins."""
    if args.client == "local":
        if args.client_model:
            raise ValueError(
                "client_model: the local interpreter has no model; wanted the address of one. Name it with --client URL"
            )
        return
    if not args.client_model:
        raise ValueError(
            f"client_model: got none; wanted the name of the model at {args.client}. Give --client-model NAME"
        )


class _Interpreter:
    """The requested interpreter; closes its connections."""

    def __init__(self, args: argparse.Namespace, out: Path) -> None:
        import os

        self.args, self.chat = args, None
        if args.client == "local":
            from monosem.analysis.evidence.explain.interpreter import LocalInterpreter

            self.who: Any = LocalInterpreter()
            return
        from monosem.analysis.evidence.explain.brief import BRIEF
        from monosem.analysis.evidence.explain.chat import Chat
        from monosem.analysis.evidence.explain.language_model import ModelInterpreter
        from monosem.analysis.evidence.explain.prompts import FULL

        self.chat: Chat | None = Chat(
            args.client,
            args.client_model,
            args.cache or out / "explain-cache",
            api_key=os.environ.get(args.key_variable, ""),
            concurrency=args.concurrency,
            retries=args.retries,
            timeout=args.timeout,
            options=args.request,
            progress=not args.quiet,
        )
        logprobs = {"auto": None, "yes": True, "no": False}[args.logprobs]
        self.who = ModelInterpreter(self.chat, BRIEF if args.ask == "brief" else FULL, logprobs=logprobs)

    def __enter__(self) -> _Interpreter:
        return self

    def __exit__(self, *_: object) -> None:
        if self.chat is not None:
            self.chat.close()

    def agreed(self, cases: list[Any]) -> bool:
        """Print the estimated cost and, without --yes, ask for confirmation."""
        if self.chat is None:
            return True
        estimate = self.who.estimate(cases, self.args.seed)
        print(f"{self.args.client_model} at {self.chat.url}: {estimate.say(self.args.price)}")
        if self.args.yes or not estimate.requests:
            return True
        if not sys.stdin.isatty():
            raise ValueError("yes: there is no terminal to confirm the cost; pass --yes")
        return input("Continue? [y/N] ").strip().lower() in ("y", "yes")

    def usage(self) -> dict[str, Any]:
        """Requests and tokens, and the answers that could not be read, by task and reason."""
        if self.chat is None:
            return {}
        unusable = {task: dict(reasons.most_common()) for task, reasons in self.chat.unusable.items()}
        return dict(vars(self.chat.usage)) | ({"unusable": unusable} if unusable else {})
