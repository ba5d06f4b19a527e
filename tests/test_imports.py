"""The direction of imports between layers."""

import ast
from pathlib import Path

import pytest

import monosem

ROOT = Path(monosem.__file__).parent
# From the bottom up; a layer may import itself and what stands in its set.
MAY = {
    "kernels": set(),
    "ops": {"kernels", "_C", "_cuda"},
    "nn": {"ops"},
    "distributed": set(),
    "data": {"distributed", "nn", "ops"},
    "drop_in": {"nn", "ops"},
    "train": {"data", "distributed", "nn", "ops"},
    "analysis": {"data", "distributed", "nn", "ops", "svg"},
    "doctor": {"ops"},
    "svg": set(),
    "bench": {"train", "data", "nn", "ops", "doctor", "svg"},
    "reproduce": {"train", "analysis", "data", "nn", "ops"},  # the one place that both trains and reads
    "__main__": {"cli"},
    "cli": {"bench", "reproduce", "train", "analysis", "data", "distributed", "nn", "ops", "doctor"},
}


def imports(path: Path) -> set[str]:
    """Layers of monosem that a file imports, wherever in the file."""
    layers = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; this project writes, `from monosem.…`"
            names = [f"{node.module}.{a.name}" for a in node.names]
        else:
            continue
        layers |= {n.split(".")[1] for n in names if n.startswith("monosem.")}
    return layers


def layer(path: Path) -> str:
    top = path.relative_to(ROOT).parts[0]
    return top.removesuffix(".py")


FILES = [p for p in ROOT.rglob("*.py") if layer(p) != "__init__"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    mine = layer(path)
    known = {n for n in imports(path) if n in MAY or n in {"_C", "_cuda"}}
    extra = known - MAY[mine] - {mine}
    assert not extra, (
        f"{mine} imports {', '.join(sorted(extra))}; it may import {', '.join(sorted(MAY[mine])) or 'nothing'}"
    )


def test_every_layer_is_known():
    assert {layer(p) for p in FILES} <= set(MAY)


def test_only_ops_touch_the_compiled_modules():
    for path in FILES:
        if layer(path) != "ops":
            assert not imports(path) & {"_C", "_cuda"}, path


def name(path: Path) -> str:
    parts = ["monosem", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def arrows(sources: dict[str, str]) -> dict[str, set[str]]:
    """Modules of monosem that each imports: at the top, in a function, or for a type checker only."""
    graph = {}
    for module, text in sources.items():
        to = graph[module] = set()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                to |= {a.name for a in node.names}
            elif isinstance(node, ast.ImportFrom):
                # `from monosem.data import files` names a module, `from monosem.data import load` its package.
                inner = {a.name: f"{node.module}.{a.name}" for a in node.names}
                to |= {full if full in sources else node.module for full in inner.values()}
        to &= set(sources)
    return graph


def circles(graph: dict[str, set[str]]) -> list[tuple[str, ...]]:
    """Sets of modules each of which reaches all others of its set, and modules that import themselves."""

    def reached(start: str) -> set[str]:
        seen, open_ = set(), [start]
        while open_:
            new = graph[open_.pop()] - seen
            seen |= new
            open_ += new
        return seen

    far = {m: reached(m) for m in graph}
    return sorted({tuple(sorted(n for n in far[m] if m in far[n])) for m in graph if m in far[m]})


def test_no_module_imports_one_that_imports_it():
    assert circles(arrows({name(p): p.read_text(encoding="utf-8") for p in FILES})) == []


def test_circles_are_found_wherever_the_import_stands():
    lazy = {
        "monosem.a": "from monosem import b",
        "monosem.b": "def f():\n    from monosem.c import x",
        "monosem.c": "if TYPE_CHECKING:\n    import monosem.a",
        "monosem.d": "from monosem.a import x",
        "monosem.e": "from monosem.e import x",
    }
    assert circles(arrows(lazy)) == [("monosem.a", "monosem.b", "monosem.c"), ("monosem.e",)]


def test_heavy_packages_are_not_imported_at_module_level():
    heavy = {"transformer_lens", "transformers", "matplotlib", "tokenizers", "triton"}
    heavy |= {"wandb", "tensorboard", "trackio", "yaml"}
    for path in FILES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            allowed = {"triton"} if layer(path) == "kernels" else set()  # device code, imported when first used
            assert not {n.split(".")[0] for n in names} & (heavy - allowed), path


def test_device_code_is_imported_only_where_it_is_called():
    for path in FILES:
        if layer(path) != "kernels":
            assert "kernels" not in imports(path) or path.name.startswith(("triton", "cuda", "tune")), path
