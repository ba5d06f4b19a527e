"""All features of a label, dictionary by dictionary, to be checked by hand."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from monosem.analysis.evidence import token_html
from monosem.analysis.evidence.numbers import feature


def lists(result: Mapping[str, Any]) -> str:
    """A table per dictionary, from :class:`Splitting` as a dict; nothing where the family stands for no label."""
    label = result["label"]
    if not label:
        return ""
    family = {(n["level"], n["feature"]) for n in result["nodes"]}
    parts = [
        f"<h3>Every feature that fires mostly on {escape(label)}</h3>"
        f'<p class="note">At least half of the tokens that it fires on are {escape(label)}, and there are at least '
        f"{result['least']} of them; whether or not it descends from the feature that the graph begins with. Share: of "
        f"the tokens of {escape(label)}, on how many it fires. So each width can be checked by reading what its "
        "features fire on.</p>"
    ]
    for number, (level, left_out) in enumerate(zip(result["levels"], result["unlisted"], strict=True)):
        rows = [n for n in result["listed"] if n["level"] == number]
        head = f"{len(rows) + left_out} of {level['d_sae']:,} features"
        if not rows:
            parts.append(f'<p class="note">{head}.</p>')
            continue
        body = "".join(_row(n, level["name"], (number, n["feature"]) in family) for n in rows)
        more = f'<p class="note">{left_out} more, which fire less, are not listed.</p>' if left_out else ""
        is_open = " open" if len(rows) <= 12 else ""
        parts.append(
            f'<details{is_open}><summary>{head}</summary><div class="scroll"><table><thead><tr><th>feature</th>'
            f"<th>tokens</th><th>of them {escape(label)}</th><th>share of {escape(label)}</th><th>correlation</th>"
            f"<th>in the family</th><th>fires on</th><th>raises</th></tr></thead><tbody>{body}</tbody></table></div>"
            f"{more}</details>"
        )
    return "".join(parts)


def _row(n: Mapping[str, Any], name: str, in_family: bool) -> str:
    words, raised = (" ".join(token_html.bdi(w) for w, _ in n[which]) for which in ("words", "raised"))
    return (
        f"<tr><td>{feature(n['feature'], name)}</td><td>{n['tokens']:,}</td><td>{n['precision']:.0%}</td>"
        f"<td>{n['recall']:.1%}</td><td>{n['correlation']:.2f}</td><td>{'yes' if in_family else ''}</td>"
        f'<td class="words">{words}</td><td class="words">{raised}</td></tr>'
    )
