"""What ``gpu.py`` prints at its end and writes as ``table.txt``: of each shape floor, steps, kernels, operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gpu_run import NO_TIME, Row, Run

from monosem.bench.workloads import WORKLOADS

REHEARSAL = "REHEARSAL on a processor, kernels interpreted: no figure here is one of a GPU."
MOST_KERNELS = 12


def table(run: Run, shapes: Sequence[str]) -> str:
    about, lines = run.about, []
    rehearsal = [REHEARSAL] if about.get("rehearsal") else []
    if tests := run.stored("tests"):
        lines.append(f"tests: {tests['passed']} passed, {tests['failed']} failed, {tests['skipped']} skipped")
        lines += [f"  red: {part['name']}: {', '.join(part['red'])}" for part in tests["parts"] if part.get("red")]
    for shape in shapes:
        lines.append(f"\n{WORKLOADS[shape]}")
        lines += [_outcome(row, _floor) for row in run.rows("floor", shape)]
        steps = run.rows("step", shape)
        for row in steps:
            lines.append(f"  step, {row['backend']:7} {_options(row)}{_outcome(row, _step)}{_tests(row)}")
            if parts := row.get("parts_ms"):
                lines.append(f"    of which {_parts(parts)}")
            lines += [f"    {unit}: {why[:90]}" for unit, why in row.get("lost", {}).items() if "error" not in row]
        for row in run.rows("kernels", shape):
            lines += _kernels(row)
        best = min((r["ms"] for r in steps if "ms" in r and not r.get("options")), default=None)
        for row in run.rows("peers", shape):
            title = " ".join(p for p in (row["name"], row["variant"], row["precision"]) if p not in ("", "default"))
            ours = lambda r: f"{r['ms']:9.3f} ms" + (f" {r['ms'] / best:7.2f} × our step" if best else "")  # noqa: B023
            lines.append(f"  {title:26} {_outcome(row, ours)}")
        for row in run.rows("ops", shape):
            lines.append(f"  {row.get('name', ''):15} {row['backend']:7} {_outcome(row, _operation)}{_tests(row)}")
    for tool in ("memcheck", "racecheck"):
        if report := (run.stored("sanitizer") or {}).get(tool):
            lines.append(
                f"{tool}: " + (report.get("error") or ("clean" if report["clean"] else "errors: sanitizer.json"))
            )
    return "\n".join([*rehearsal, *lines, *rehearsal])


def _outcome(row: Row, words: Callable[[Row], str]) -> str:
    return row["error"][:90] if "error" in row else words(row)


def _tests(row: Row) -> str:
    """Unless they were green."""
    return "" if row.get("tests", "green") == "green" else f"  [tests: {row['tests']}]"


def _floor(row: Row) -> str:
    rate, speed = row["flops_per_second"] / 1e12, row["bytes_per_second"] / 1e12
    return (
        f"  floor {row['ms']:.3f} ms = product {row['product_ms']:.3f} ({rate:.3g} TFLOP/s) + candidates scored again "
        f"{row['rescore_ms']:.3f} + gathers {row['gathers_ms']:.3f} + Adam {row['adam_ms']:.3f} ({speed:.3g} TB/s)"
    )


def _step(row: Row) -> str:
    ways = [(row[way]["ms"], row[way]["how"]) for way in ("graph", "eager") if way in row]
    times = " ".join(f"{ms:9.3f} ms ({'as called' if how == 'eager' else how})" for ms, how in ways)
    memory = "" if row.get("over_state") is None else f", memory {100 * row['over_state']:+.0f} %"
    if "ms" not in row:
        return times
    return f"{times} {_against(row)} {row['tokens_per_second'] / 1e6:7.2f} M tokens/s{memory}"


def _options(row: Row) -> str:
    return "".join(f"{name}={value} " for name, value in row.get("options", {}).items())


def _parts(parts: dict[str, float]) -> str:
    """Where the time goes, and where it could still be had: the largest first."""
    total = parts["in all"]
    return ", ".join(f"{name} {ms:.3f} ({100 * ms / total:.0f} %)" for name, ms in parts.items() if name != "in all")


def _kernels(row: Row) -> list[str]:
    head = f"  kernels, {row['backend']:7} "
    if "kernels" not in row:
        return [head + row.get("error", "nothing was measured")[:90]]
    lines = [
        f"{head}{row['kernels_ms']:.3f} ms in kernels, {row['ms']:.3f} ms from the first to the last (by {row['by']})"
        f"{_tests(row)}"
    ]
    for kernel in row["kernels"][:MOST_KERNELS]:
        floor = ""
        if "bytes" in kernel:
            floor = f"  {kernel['bytes'] / 1e6:.3g} MB"
        if "floor_ms" in kernel:
            floor += f", floor {kernel['floor_ms']:.4f} ms"
        if "to_floor" in kernel:
            floor += f": {kernel['to_floor']:.2f} ×"
        lines.append(
            f"    {kernel['kernel'][:44]:44} {kernel['launches']:4} × {kernel['launch_us']:9.1f} µs = "
            f"{kernel['ms']:8.4f} ms{floor}"
        )
    if rest := row["kernels"][MOST_KERNELS:]:
        count = sum(kernel["launches"] for kernel in rest)
        lines.append(f"    {len(rest)} more, {count} launches: {sum(k['ms'] for k in rest):.4f} ms")
    return lines


def _operation(row: Row) -> str:
    return f"{row['ms']:9.3f} ms {_against(row)} ({row['how']})"


def _against(row: Row) -> str:
    return f"{row['to_floor']:6.2f} × floor" if "to_floor" in row else "no floor"


def failures(run: Run) -> list[dict[str, Any]]:
    """Our rows that lack a figure, for any reason."""
    failed = []
    for section in ("floor", "step", "kernels", "ops"):
        failed += [r for r in (run.stored(section) or {}).get("rows", []) if "error" in r or "lost" in r]
    return failed


def only_time(row: Row) -> bool:
    """Whether all that it lacks was not measured yet, because the time was over."""
    return {row.get("error", NO_TIME), *row.get("lost", {}).values()} == {NO_TIME}
