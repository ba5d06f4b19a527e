"""Builds the module _cuda for the processor: its sources as they are, with the stand-in for CUDA's header beside this.

Needs g++ on Linux. The build is kept under the name of a hash of all that goes into it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# Address and shift errors end the process: a misaligned 16-byte access would do so on a GPU too.
CHECKS = ["-fsanitize=alignment,bounds,shift", "-fsanitize-undefined-trap-on-error"]
OPTIONS = [
    "-O1",
    "-std=c++17",
    "-march=native",
    "-ffp-contract=fast",  # products and sums in one, as on a GPU
    "-shared",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wall",
    "-Wno-unknown-pragmas",
    *CHECKS,
]


def missing() -> str:
    """Why it cannot be built here; empty when it can."""
    if not sys.platform.startswith("linux"):
        return "the emulator's fibers are written for Linux"
    if shutil.which("g++") is None:
        return "no g++"
    if importlib.util.find_spec("pybind11") is None:
        return "no pybind11"
    return ""


def sources() -> list[Path]:
    return [*sorted((ROOT / "csrc/cuda").glob("*.cu")), ROOT / "csrc/bindings/cuda_module.cpp"]


def build(folder: Path) -> Path:
    """Path of the module, compiled if what it is made of has changed."""
    import pybind11

    parts = [*sources(), HERE / "cuda_runtime.h", *ROOT.glob("csrc/cuda/*.h"), *ROOT.glob("csrc/core/*.h")]
    parts += ROOT.glob("csrc/bindings/*.h")
    parts += [*ROOT.glob("kernels/*/*.cuh"), *ROOT.glob("kernels/*/*.h")]
    digest = hashlib.sha256(f"{OPTIONS} {sys.version} {pybind11.__version__}".encode())
    for part in sorted(parts):
        digest.update(part.read_bytes())
    built = folder / digest.hexdigest()[:16] / "_cuda.so"
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        objects = []
        includes = [f"-I{p}" for p in (HERE, pybind11.get_include(), sysconfig.get_paths()["include"])]
        running = []
        for source in sources():
            objects.append(str(built.parent / f"{source.stem}.{os.getpid()}.o"))
            command = ["g++", *OPTIONS, *includes, "-c", "-x", "c++", str(source), "-o", objects[-1]]
            running.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        for source, process in zip(sources(), running, strict=True):
            said = process.communicate()[1]
            if process.returncode:
                raise RuntimeError(f"g++ failed on {source}:\n{said[-4000:]}")
        made = built.with_suffix(f".{os.getpid()}")
        subprocess.run(["g++", *OPTIONS, *objects, "-o", str(made)], check=True)
        made.replace(built)
    return built


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("_cuda", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
