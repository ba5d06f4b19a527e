"""Results as tables: for the terminal, and for a README."""

from __future__ import annotations

from typing import Any

from monosem.bench.workloads import described
from monosem.ops.memory import human_bytes

Table = tuple[list[str], list[list[str]]]


def text(table: Table) -> str:
    """Columns in line, numbers to the right."""
    head, rows = table
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
    return "\n".join(
        "  ".join(c.ljust(n) if i == 0 else c.rjust(n) for i, (c, n) in enumerate(zip(line, widths, strict=True)))
        for line in [head, *rows]
    )


def markdown(table: Table) -> str:
    head, rows = table
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines)


def figure(value: float | None, digits: int = 3) -> str:
    """``1,234``, ``56.7``, ``0.89``: ``digits`` significant digits."""
    if value is None:
        return ""
    if value == 0 or not value < float("inf"):
        return f"{value:g}"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    rounded = f"{value:.{digits}g}"
    return rounded if "e" not in rounded else f"{value:.1e}"


def step_table(result: dict[str, Any]) -> Table:
    """One line per entrant: time, how many times ours, over the floor, memory, error and L0 on held-out data."""
    ours = result["rows"][0]["name"]
    head = ["step of", "ms", f"× {ours}", "× floor", "peak memory", "over its state", "held-out MSE", "L0"]
    rows = [["floor of this machine", figure(result["floor"]["ms"]), "", "1", "", "", "", ""]]
    if bf16 := result["floor"].get("bf16_ms"):
        over = bf16 / result["floor"]["ms"]
        rows.append(["floor with PyTorch's bf16 product", figure(bf16), "", figure(over), "", "", "", ""])
    for row in result["rows"]:
        name = row["name"] + (f" {_version(row)}" if _version(row) else "")
        if row.get("error"):
            rows.append([f"{name}: {row['error']}", *[""] * (len(head) - 1)])
            continue
        line = [name, figure(row["ms"]), figure(row["ratio"]), figure(row["to_floor"])]
        line += [human_bytes(row["peak_bytes"]) if row["peak_bytes"] else "", _percent(row["over_state"])]
        rows.append([*line, figure(row["mse"], 4), figure(row["l0"])])
    return head, rows


def operations_table(result: dict[str, Any]) -> Table:
    head = ["operation", "ms", "floor ms", "× floor", "bound by", "GFLOP", "MB", "GFLOP/s", "GB/s"]
    rows = [
        [
            row["name"],
            figure(row["ms"]),
            figure(row["floor_ms"]),
            figure(row["to_floor"]),
            row["bound"],
            figure(row["flops"] / 1e9),
            figure(row["bytes"] / 1e6),
            figure(row["flops_per_second"] / 1e9),
            figure(row["bytes_per_second"] / 1e9),
        ]
        for row in result["rows"]
    ]
    return head, rows


def profile_table(result: dict[str, Any]) -> Table:
    """One line per phase of a run's own step, the whole step, and the wait for its activations."""
    head = ["phase", "ms", "share", "floor ms", "× floor"]
    rows = [
        [row["name"], figure(row["ms"]), f"{row['share']:.1%}", figure(row["floor_ms"]), figure(row["to_floor"])]
        for row in [*result["phases"], result["step"]]
    ]
    return head, [*rows, ["waiting for activations", figure(result["data_ms"]), "", "", ""]]


def notes(result: dict[str, Any]) -> list[str]:
    """Differences between the compared steps, by entrant."""
    return [f"{row['name']}: {note}" for row in result["rows"] for note in row.get("notes", [])]


def heading(result: dict[str, Any]) -> str:
    """Workload, machine, versions, date, and how the floor is made up, in a few lines of text."""
    w, m, best = result["workload"], result["machine"], result["floor"]
    name = f"{w['name']}: " if w.get("name") else ""
    shape = f"{name}{described(w)}, N={w['n']:,} D={w['d']:,} F={w['f']:,} K={w['k']:,}"
    versions = f"monosem {m['monosem']} ({m['commit'] or 'installed'}), torch {m['torch']}, Python {m['python']}"
    # Results from before rescoring was counted lack it; a product in fp32 has none.
    counted = [part for part in ("product", "rescore", "gathers", "adam") if best.get(f"{part}_ms")]
    parts = ", ".join(f"{part} {figure(best[f'{part}_ms'])}" for part in counted)
    rates = f"{best['product']} product at {figure(best['flops_per_second'] / 1e9)} GFLOP/s"
    return "\n".join(
        [
            shape,
            f"{machine_line(m)}; load {m['load']} when it began",
            f"{versions}, {result['made']}",
            f"floor {figure(best['ms'])} ms ({parts}): {rates}, {figure(best['bytes_per_second'] / 1e9)} GB/s",
        ]
    )


def machine_line(m: dict[str, Any]) -> str:
    """``AMD EPYC, 2 threads, kernels avx2, encoder product fp32``."""
    backend = m["backend"]
    kernels, product = backend.get("cpu kernels", "none"), backend.get("cpu product", "fp32")
    return (
        f"{m['cpu']} ({' '.join(m['isa']) or 'baseline'}), {m['threads']} threads, kernels {kernels}, product {product}"
    )


def _version(row: dict[str, Any]) -> str:
    return next((v for name, v in row.get("versions", {}).items() if name != "torch"), "")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:+.0%}"
