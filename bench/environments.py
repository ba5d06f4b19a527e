"""The peers' environments: one per library, from pinned versions, because their requirements conflict.

    python bench/environments.py [NAME ...]    make those that are missing or whose pins have changed

They stand in ``.venv-bench/``. PyTorch comes first and alone: a requirement resolved later could bring another build.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parent / ".venv-bench"
TORCH = "torch==2.13.0"
NAMES = tuple(sorted(p.stem for p in (HERE / "environments").glob("*.txt")))


def python(name: str) -> Path:
    """Interpreter of an environment, whether it is there or not."""
    return FOLDER / name / "bin" / "python"


def missing(name: str) -> str:
    """Why an environment cannot be used, or ``""``."""
    stamp = FOLDER / name / ".pins"
    if not stamp.is_file() or not python(name).exists():
        return f"its environment is not set up: `{Path(sys.executable).name} bench/environments.py {name}`"
    return "" if stamp.read_text() == _pins(name) else "its environment is of other pins: run bench/environments.py"


def make(name: str) -> None:
    """Make one environment; raises CalledProcessError with what pip said."""
    pip = [str(python(name)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([sys.executable, "-m", "venv", "--clear", str(FOLDER / name)])
    _run([*pip, TORCH])
    # The list is complete, so nothing needs resolving, and no requirement can replace PyTorch.
    _run([*pip, "--no-deps", "-r", str(HERE / "environments" / f"{name}.txt")])
    (FOLDER / name / ".pins").write_text(_pins(name))


def make_missing(names: tuple[str, ...] = NAMES, say=print) -> dict[str, str]:
    """Make what is missing; returns the error of each that could not be made. The others are made all the same."""
    errors = {}
    for name in names:
        if missing(name):
            say(f"setting up {name} in {FOLDER / name}")
            try:
                make(name)
            except (subprocess.CalledProcessError, OSError) as error:
                last = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
                errors[name] = f"its environment could not be set up: {' '.join(last)[:300]}"
                say(errors[name])
    return errors


def _pins(name: str) -> str:
    text = TORCH + (HERE / "environments" / f"{name}.txt").read_text() + sys.version
    return hashlib.sha256(text.encode()).hexdigest()


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)} (default: all)")
    args = parser.parse_args()
    if unknown := sorted(set(args.names) - set(NAMES)):
        parser.error(f"NAME: got {', '.join(unknown)}; wanted some of {', '.join(NAMES)}")
    sys.exit(1 if make_missing(tuple(args.names) or NAMES) else 0)
