"""The pictures of pages in docs/, from the pages that the current code writes.

    python tools/pictures.py                    all of them
    python tools/pictures.py report features    some: report, claims, features

Each runs the command whose page it shows, in ``--runs``, where it resumes: training that is done is
not done again, the page is written again. ``claims`` needs a whole `monosem reproduce`, 18 minutes on two cores;
the others three. ``make pictures`` and ``make pictures ONLY=report`` run this.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import chromium

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Picture:
    """
    Attributes:
        commands: of ``monosem``, in order; {runs} is the folder of runs.
        page: what is shown of what they wrote.
        size: in pixels.
        ready: what is true in the page when everything is drawn.
    """

    commands: tuple[str, ...]
    page: str
    size: tuple[int, int]
    ready: str = "true"


DEMO = "demo --out {runs}/demo"
PICTURES = {
    "report": Picture((DEMO,), "{runs}/demo/report.html", (1280, 1500)),
    "claims": Picture(("reproduce --out {runs}/reproduce",), "{runs}/reproduce/report.html", (1300, 1500)),
    "features": Picture(
        (DEMO, "features {runs}/demo"),
        "{runs}/demo/features/index.html",
        (1300, 900),
        ready="Boolean(document.documentElement.dataset.ready)",
    ),
}

# Of models that do not come with the package: made by the commands of the page that shows them.
OF_HOWTOS = ("howto/embeddings.png", "howto/smollm2.png")


def take(page: Path, to: Path, size: tuple[int, int], ready: str = "true", fragment: str = "") -> None:
    """A picture of the top of a page.

    Args:
        fragment: behind the page's address: ``"7"``, a feature.

    Raises:
        ValueError: something goes wrong on the page.
    """
    with tempfile.TemporaryDirectory() as profile:
        with chromium.Chromium(Path(profile)) as browser, browser.tab(size=size) as tab:
            tab.open(page, fragment)
            tab.wait(ready)
            if errors := tab.errors():
                raise ValueError(f"page: {page} is not drawn whole: {'; '.join(errors)}")
            tab.screenshot(to)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PICTURES)} (default: all)")
    parser.add_argument("--runs", default="runs", help="folder of the runs")
    parser.add_argument("--out", default=ROOT / "docs", type=Path, help="folder of the pictures")
    args = parser.parse_args(argv)
    if unknown := set(args.names) - set(PICTURES):
        parser.error(f"NAME: got {', '.join(sorted(unknown))}; wanted some of {', '.join(PICTURES)}")
    if chromium.BINARY is None:
        parser.error("no Chromium on this machine: install one (`apt-get install chromium`)")
    from monosem.cli.main import main as monosem

    done: set[str] = set()
    for name in args.names or PICTURES:
        picture = PICTURES[name]
        for command in picture.commands:
            if command not in done and (status := monosem([w.format(runs=args.runs) for w in command.split()])):
                return status
            done.add(command)
        to = args.out / f"{name}.png"
        take(Path(picture.page.format(runs=args.runs)), to, picture.size, picture.ready)
        print(f"written: {to}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
