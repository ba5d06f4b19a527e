"""Every C++ header parses alone, so that the order of includes is no rule and an editor understands each file."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EMULATOR = ROOT / "tests/emulator"  # has a stand-in for CUDA's header
# The others (*.cuh, bindings) are slow to parse, and their source of the same stem includes them first.
HEADERS = sorted(
    path.relative_to(ROOT)
    for pattern in ("csrc/core/*.h", "csrc/cpu/*.h", "csrc/cuda/*.h", "kernels/**/*.h")
    for path in ROOT.glob(pattern)
)
KERNELS = [path for path in HEADERS if path.name.endswith("-inl.h")]
OPTIONS = ["-fsyntax-only", "-fopenmp-simd", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function"]
# The launchers are written for CUDA, where the standard is C++17.
CUDA = ["-std=c++17", "-Wno-unknown-pragmas", "-isystem", str(EMULATOR)]

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")


def parse(path: Path, *options: str) -> str:
    """The errors and warnings of a file that includes only this header."""
    command = ["g++", *OPTIONS, *options, "-x", "c++", "-"]
    done = subprocess.run(command, input=f'#include "{ROOT / path}"\n', capture_output=True, text=True, check=False)
    return done.stderr


@needs_compiler
@pytest.mark.parametrize("path", HEADERS, ids=str)
def test_a_header_parses_alone(path):
    cuda = path.parts[0] == "kernels" or path.parts[1] == "cuda"
    assert parse(path, *(CUDA if cuda else ["-std=c++20"])) == ""


@needs_compiler
def test_a_header_with_a_missing_include_is_found(tmp_path):
    source = (ROOT / "csrc/cpu/select-inl.h").read_text(encoding="utf-8").replace('#include "simd-inl.h"\n', "")
    source = re.sub(r'#include "(.*)"', lambda m: f'#include "{(ROOT / "csrc/cpu" / m[1]).resolve()}"', source)
    (tmp_path / "select-inl.h").write_text(source, encoding="utf-8")
    assert "error" in parse(tmp_path / "select-inl.h", "-std=c++20")


@pytest.mark.parametrize("path", KERNELS, ids=str)
def test_only_kernels_are_compiled_for_an_instruction_set(path):
    """An #include between the marks would compile shared code of the standard library for one instruction set."""
    text = (ROOT / path).read_text(encoding="utf-8")
    regions = re.findall(r"^MS_TARGET_BEGIN$(.*?)^MS_TARGET_END$", text, re.M | re.S)
    outside = re.sub(r"^MS_TARGET_BEGIN$.*?^MS_TARGET_END$", "", text, flags=re.M | re.S)
    assert all("#include" not in region for region in regions)
    assert "static" not in outside and "MS_INLINE" not in outside  # no kernel stands beside them
    assert len(regions) == (path.name != "table-inl.h")


def test_includes_point_from_csrc_to_kernels():
    for path in [*ROOT.glob("kernels/**/*.h"), *ROOT.glob("kernels/**/*.cuh")]:
        assert not re.search(r'#include ".*csrc/', path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("source", sorted(ROOT.glob("csrc/cuda/*.cu")), ids=lambda p: p.name)
def test_a_launcher_includes_its_kernels_first(source):
    """So that its header is parsed alone whenever it is compiled."""
    first = re.search(r'#include "(.*)"', source.read_text(encoding="utf-8"))
    assert first[1].endswith(f"/{source.stem}.cuh") and (source.parent / first[1]).is_file()
