"""A user's process may have another default dtype or device: the package creates every tensor with explicit ones.

Memory that C++ writes is sized by its elements, so that a default of two bytes would be an overrun of the heap.
"""

import ast
from pathlib import Path

import pytest

import monosem

ROOT = Path(monosem.__file__).parent
# The dtype is the default's, or may be.
FLOATING = {
    *("empty", "empty_strided", "zeros", "ones", "full", "tensor", "scalar_tensor", "Tensor", "eye"),
    *("rand", "randn", "normal", "linspace", "logspace", "Linear", "Embedding", "LayerNorm"),
}
# The dtype is int64, or that of the argument.
WHOLE = {"arange", "randint", "randperm", "as_tensor", "tril_indices", "triu_indices"}


def bare(path: Path) -> list[str]:
    """Calls of a factory that leave dtype or device to the process."""
    bare_calls = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        name, of = node.func.attr, node.func.value
        if not (isinstance(of, ast.Name) and of.id in {"torch", "nn"}):
            continue
        if name in {"get_default_dtype", "get_default_device", "set_default_dtype", "set_default_device"}:
            bare_calls.append(f"{path.name}:{node.lineno} {name}")
        given = {k.arg for k in node.keywords}
        if None in given:  # **options, which carry both
            continue
        expected = {"dtype", "device"} if name in FLOATING else {"device"} if name in WHOLE else set()
        if expected - given:
            bare_calls.append(
                f"{path.name}:{node.lineno} {ast.unparse(node)} lacks {', '.join(sorted(expected - given))}"
            )
    return bare_calls


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_factories_are_called_with_dtype_and_device(path):
    assert not bare(path)


def test_a_bare_factory_is_detected(tmp_path):
    file = tmp_path / "some.py"
    file.write_text("import torch\na = torch.empty(3)\nb = torch.arange(4)\nc = torch.full((2,), 1.0, device='cpu')\n")
    assert len(bare(file)) == 3
