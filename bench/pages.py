"""The index and the browser of features at a large width: time, memory, size on disk, and time until the page is shown.

    python bench/pages.py --out bench/results/pages.json

The dictionary is a random one (TopK, not trained) on model A, so its features mean nothing; what is measured is the
machinery. Each stage runs in a process of its own, so that peak memory is its own. The page is timed by Chromium from
the start of the navigation to a listed, sorted and drawn first feature, once by the clock (``page_ms``: on a busy
machine that says little) and once by the processor time of the page's own thread (``page_cpu_ms``).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import stages

HOOK = "blocks.0.mlp.hook_post"


def subject(args: argparse.Namespace):
    import monosem as ms
    from monosem.analysis.inputs import Subject

    model = ms.load_model("A")
    return Subject(ms.TopKSAE(model.width(HOOK), args.d_sae, k=args.k, seed=0), model, HOOK)


def index(args: argparse.Namespace) -> dict[str, float]:
    from monosem.analysis.index import build_index
    from monosem.analysis.inputs import load_rows

    own = subject(args)
    rows = load_rows(own.model, "sample", "held_out")
    began = time.perf_counter()
    feature_index = build_index(
        own, rows, args.folder / "index", tokens=args.tokens, checkpoint_seconds=args.checkpoint
    )
    return {
        "seconds": time.perf_counter() - began,
        "tokens": feature_index.tokens,
        "alive": int((feature_index.counts > 0).sum()),
    }


def pages(args: argparse.Namespace) -> dict[str, float]:
    from monosem.analysis.dashboard import write_site
    from monosem.analysis.index import open_index

    own, feature_index = subject(args), open_index(args.folder / "index")
    began = time.perf_counter()
    write_site(own, feature_index, args.folder / "site", prompts=["The quick brown fox jumps over the lazy dog."])
    return {"seconds": time.perf_counter() - began}


def load(args: argparse.Namespace) -> dict[str, float | list[float]]:
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    import chromium

    if chromium.BINARY is None:
        raise SystemExit("no Chromium on this machine: install one (`apt install chromium`) to time the page")
    ready, busy, feature, search = [], [], [], []
    for number in range(args.loads):
        profile = args.folder / f"profile-{number}"
        with chromium.Chromium(profile) as browser, browser.tab(size=(1400, 900)) as tab:
            tab.call("Performance.enable", timeDomain="threadTicks")
            tab.open(args.folder / "site" / "index.html")
            tab.wait("document.documentElement.dataset.loaded")
            ready.append(int(tab.run("document.documentElement.dataset.loaded")))
            metrics = {m["name"]: m["value"] for m in tab.call("Performance.getMetrics")["metrics"]}
            busy.append(round(1000 * metrics["TaskDuration"]))
            timed = "(async () => {{ const t = performance.now(); await {}; return performance.now() - t; }})()"
            feature.append(tab.run(timed.format(f"record({args.d_sae // 2 + 7 * number})")))
            asked = "{query: 'the', low: 0, high: 1, source: null, silent: false, order: 'skew'}"
            search.append(tab.run(timed.format(f"find({asked})")))
    return {
        "page_ms": sorted(ready),
        "page_cpu_ms": sorted(busy),
        "feature_file_ms": sorted(feature),
        "search_ms": sorted(search),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-sae", type=int, default=131_072)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--loads", type=int, default=5, help="times the page is opened, each in a new browser")
    parser.add_argument("--checkpoint", type=float, default=60.0, help="least seconds between checkpoints")
    parser.add_argument("--folder", type=Path, help="where index and pages go and stay (default: a temporary folder)")
    parser.add_argument("--only", choices=("index", "pages", "load"), help="one stage, in this process; prints JSON")
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args()
    if args.only:
        stages.answer({"index": index, "pages": pages, "load": load}[args.only](args))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        args.folder = args.folder or Path(temporary)
        result = {"what": "pages", "d_sae": args.d_sae, "k": args.k, "load_average": os.getloadavg()[0]}
        for stage in ("index", "pages", "load"):
            result[stage] = stages.run(__file__, stage, args, ("d_sae", "k", "tokens", "loads", "checkpoint"))
            print(stage, result[stage], flush=True)
        for name in ("index", "site"):
            inside = [p for p in (args.folder / name).rglob("*") if p.is_file()]
            result[f"{name}_mb"] = round(sum(p.stat().st_size for p in inside) / 1e6, 1)
            result[f"{name}_files"] = len(inside)
    return stages.conclude(result, args.out)


if __name__ == "__main__":
    sys.exit(main())
