"""Every Triton kernel compiled, at the sizes of real dictionaries, for GPUs that are not here: what it asks of them.

No spills, shared memory within the chip's, Hopper's tensor cores in the product on Hopper. The table of registers is
printed with ``-s``.
"""

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest

from monosem.ops import gpu

pytest.importorskip("triton", reason=gpu.available("triton"))
import ahead

from monosem.kernels import launch

LLAMA = (8192, 4096, 131_072, 64)
GPT2 = (4096, 768, 24_576, 32)
KERNELS = Path(launch.__file__).parent


def entry_points() -> set[str]:
    """Names of the kernels: what a rule for block sizes exists for."""
    return set(launch._RULES)


@pytest.mark.parametrize("arch", ahead.TARGETS)
def test_compiles_without_spills(arch, monkeypatch, tmp_path):
    launches = ahead.recorded(monkeypatch, arch, ahead.step(*LLAMA))
    assert {l.name for l in launches} == entry_points()  # everything is launched by some operation, and so compiled
    seen = set()
    for l in launches:
        key = l.name, tuple(c for c in l.constants if c[0] != "CAP"), l.options, l.signature
        if key in seen:  # room for candidates is all that differs
            continue
        seen.add(key)
        compiled = l.compile(arch)
        found = ahead.resources(compiled, tmp_path)
        print(f"{arch:8} {l.name:16} {found['registers']:4} registers {found['shared']:7} bytes shared")
        assert found["spilled"] == 0, (l.name, found)
        assert found["shared"] <= ahead.SHARED[arch], (l.name, found)
        if arch == "sm_90" and l.name in ("sample", "collect"):
            assert "wgmma" in compiled.asm["ptx"]
        if l.name == "redo":  # between what its threads write and what others of them read
            code = compiled.asm.get("ptx") or compiled.asm["amdgcn"]
            assert ("bar.sync" in code) or ("s_barrier" in code)


# What two programs a processor leave each thread, and barriers. Of ``collect`` for hits, instructions behind the last
# product too: the form with a bar alone, which looks at every product, takes 225 registers and 3,171 of them on sm_90.
SELECTION = {"collect": (128, 8), "choose": (128, 54), "sift": (128, 34), "set_threshold": (64, 6)}


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("size", [GPT2, LLAMA])
def test_selection_leaves_registers_for_a_second_program(arch, size, monkeypatch, tmp_path):
    seen = set()
    for l in ahead.recorded(monkeypatch, arch, ahead.step(*size)):
        constants = dict(l.constants)
        if l.name not in SELECTION or (l.name == "collect" and not constants["LOOSE"]) or constants.get("CAP") == 512:
            continue
        seen.add(l.name)
        compiled, (registers, barriers) = l.compile(arch), SELECTION[l.name]
        found = ahead.resources(compiled, tmp_path)
        code = ahead.instructions(compiled, tmp_path)
        waits = sum(name.startswith("BAR") for name in code)
        last = max((i for i, name in enumerate(code) if "MMA" in name), default=-1)
        print(f"{arch} {l.name:8} {found} {waits} barriers {len(code)} instructions, {len(code) - last} behind")
        assert found["registers"] <= registers and waits <= barriers, (l.name, l.constants, found, waits)
        assert l.name != "collect" or len(code) - last <= (1950 if dict(l.signature)["x"] == "*i8" else 1600)
    assert seen == set(SELECTION)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_rows_are_scored_and_redone_in_the_same_order(arch, monkeypatch):
    """Additions go by the layout that the block of products has in a program."""
    order = {}
    for l in ahead.recorded(monkeypatch, arch, ahead.step(*GPT2)):
        if l.name in ("choose", "redo"):
            code = l.compile(arch).asm["ttgir"]
            used = set(re.findall(r"\(tensor<\d+x\d+xf32, (#\w+)>\) -> tensor<\d+xf32, ", code))
            order.setdefault(l.name, set()).update(re.search(rf"^{u} = (.*)", code, re.M).group(1) for u in used)
    assert order["choose"] == order["redo"] and len(order["choose"]) == 1


# Registers of a thread, and barriers as they stand in the code: what keeps the rows of several blocks on their way.
HOT = {"decode_loss": (128, 24), "encoder_grad_adam": (128, 6), "row_grad_adam": (104, 5), "row_adam": (104, 5)}
# Where the encoder's copy is in int8, the rotation exchanges numbers between threads, of which there are more.
WITH_ROTATION = {"encoder_grad_adam": (128, 34), "row_adam": (80, 32)}


@pytest.mark.parametrize("size", [LLAMA, GPT2])
def test_registers_of_hot_kernels_allow_two_programs(size, monkeypatch, tmp_path):
    """On the chip that they are made for; moments in fp32."""
    seen = set()
    for l in ahead.recorded(monkeypatch, "sm_90", ahead.step(*size)):
        usual = dict(l.signature).get("m", "*fp32") == "*fp32"
        if l.name in HOT and usual:
            seen.add(l.name)
            budget = WITH_ROTATION if dict(l.constants).get("BITS") else HOT
            compiled, (registers, barriers) = l.compile("sm_90"), budget[l.name]
            found = ahead.resources(compiled, tmp_path)
            waits = sum(name.startswith("BAR") for name in ahead.instructions(compiled, tmp_path))
            assert found["registers"] <= registers and waits <= barriers, (l.name, l.constants, found, waits)
    assert seen == set(HOT)


def other_choices(launches: list[ahead.Launch], arch: str) -> list[ahead.Launch]:
    """What tuning may try at the launches' sizes: all tiles of the product, and of the kernels over rows those that
    ask most of a thread, for their registers grow with the numbers that a thread holds."""
    found = []
    for l in launches:
        product = l.name in ("sample", "collect")  # those for hits have the same alternatives
        choices = launch.alternatives(l.name, 2 if product else LLAMA[1], arch)
        if dict(l.constants).get("BITS"):  # gets more warps than were chosen (ops/row_adam/triton.py::_row_blocks)
            continue
        if not choices or (product and (("ALL", True) in l.constants or ("CAP", 512) in l.constants)):
            continue
        if l.name == "decode_loss":  # it is told how much it may hold, in slices of as many rows as a token has
            rows = dict(l.constants)["J"]
            choices = [{"BD": c["HELD"] // rows, "num_warps": c["num_warps"]} for c in choices]
        elif not product:
            choices = [max(choices, key=lambda c: c.get("J", c.get("C")) / c["num_warps"])]
        for choice in choices:
            constants, options = (
                tuple({**dict(old), **{n: v for n, v in choice.items() if (n in ahead.OPTIONS) == is_option}}.items())
                for old, is_option in ((l.constants, False), (l.options, True))
            )
            found.append(replace(l, constants=constants, options=options))
    return found


@pytest.mark.parametrize("arch", ahead.TARGETS)
def test_alternatives_of_tuning_do_not_spill(arch, monkeypatch, tmp_path):
    launches = ahead.recorded(monkeypatch, arch, ahead.step(*LLAMA))
    tried = other_choices(launches, arch)
    assert {l.name for l in tried} == {
        "sample", "collect", "score", "choose", "sparse_decode", "gather_dot", "decode_loss", "row_grad",
        "row_grad_adam", "encoder_grad_adam",
    }  # fmt: skip
    for l in dict.fromkeys(tried):
        found = ahead.resources(l.compile(arch), tmp_path)
        assert found["spilled"] == 0 and found["shared"] <= ahead.SHARED[arch], (l.name, l.constants, l.options, found)


def test_sizes_that_differ(monkeypatch, tmp_path):
    """Narrow rows, the largest room for candidates, and products in fp32, on one chip."""
    from monosem.ops import backend

    launches = ahead.recorded(monkeypatch, "sm_80", ahead.step(*GPT2))
    launches += ahead.recorded(monkeypatch, "sm_80", ahead.step(64, 8192, 8192, 2048))
    monkeypatch.setattr(backend, "gpu_product", lambda: "fp32")
    launches += ahead.recorded(monkeypatch, "sm_80", ahead.step(64, 512, 4096, 16))
    wanted = {
        "choose": {("CAP", 8192), ("LOOSE", True)},
        "decode_loss": {("J", 32), ("J", 128)},
        "row_grad_adam": {("BD", 8192)},
        "collect": {("ALL", True), ("FP32", True)},
    }
    done = set()
    for l in launches:
        reasons = wanted.get(l.name, set()) & set(l.constants)
        if reasons <= done or not reasons:
            continue
        done |= reasons
        found = ahead.resources(l.compile("sm_80"), tmp_path)
        assert found["spilled"] == 0 and found["shared"] <= ahead.SHARED["sm_80"], (l.name, l.constants, found)
    assert done == set().union(*wanted.values())


def test_every_kernel_has_a_rule():
    """A function that is launched has a rule; a helper is called by one and has none."""
    defined, called = set(), set()
    for path in KERNELS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and any("jit" in ast.unparse(d) for d in node.decorator_list):
                defined.add(node.name)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                called.add(node.func.id)
    assert entry_points() <= defined
    assert defined - called <= entry_points()


def test_a_table_overrides_the_rule(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "TUNED", tmp_path)
    launch.table.cache_clear()
    (tmp_path / "nvidia_h200.json").write_text('{"kernels": {"decode_loss": {"4096": {"J": 1}}}}')
    try:
        rule = launch.block("decode_loss", 4096, "", "sm_90")
        assert launch.block("decode_loss", 4096, "NVIDIA H200", "sm_90") == {**rule, "J": 1} != rule
        assert launch.block("decode_loss", 2048, "NVIDIA H200", "sm_90") == launch.block(
            "decode_loss", 2048, "", "sm_90"
        )
    finally:
        launch.table.cache_clear()


@pytest.mark.parametrize("kernel", ["row_grad", "windows", "sparse_decode"])
def test_parts_of_a_row_leave_few_lanes_idle(kernel):
    """None at the widths of common models; in blocks of 1,024, a quarter at 2,304 and at 768."""
    for d, part in {768: 256, 1024: 1024, 1536: 512, 2304: 256, 3584: 512, 4096: 1024, 5120: 1024, 8192: 1024}.items():
        assert launch.block(kernel, d, "", "sm_90")["BD"] == part and d % part == 0
    assert launch.block(kernel, 100, "", "sm_90")["BD"] == 128
