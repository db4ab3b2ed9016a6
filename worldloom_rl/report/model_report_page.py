"""A model report as one page of static HTML, with its pictures inside it."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

from matplotlib.figure import Figure

from worldloom_rl.atomic import write_text
from worldloom_rl.report.agreement import by_step, imagined_returns
from worldloom_rl.report.model_findings import Finding, verdict_text
from worldloom_rl.report.model_report import Evidence
from worldloom_rl.report.model_report_figures import draw_figures
from worldloom_rl.report.page import page, picture

_COLORS = {"sound": "#2e7d32", "weak": "#b26a00", "at fault": "#c62828", "not judged": "#5f6368"}
_SHOWN = (1, 2, 3, 5, 10, 15, 20, 30, 50)  # steps in the table


def write_report(
    directory: Path,
    title: str,
    facts: Mapping[str, str],
    evidence: Evidence,
    findings: Sequence[Finding],
    figures: Iterable[tuple[str, str, Figure]] = (),
) -> Path:
    """index.html in a directory, in place of an older report; other files there stay. Returns the file.

    Args:
        facts: what was judged and how, by name.
        figures: that stand before those of the evidence, each with its name and a caption.
    """
    file = directory / "index.html"
    page = report_page(title, facts, evidence, findings, figures)
    directory.mkdir(parents=True, exist_ok=True)
    write_text(file, page)
    return file


def report_page(
    title: str,
    facts: Mapping[str, str],
    evidence: Evidence,
    findings: Sequence[Finding],
    figures: Iterable[tuple[str, str, Figure]] = (),
) -> str:
    """The page's HTML."""
    text = html.escape
    rows = "\n".join(
        f'<tr><td>{text(finding.part)}</td><td style="color:{_COLORS[finding.verdict]}"><b>{text(finding.verdict)}</b>'
        f"</td><td>{text(finding.text)}</td></tr>"
        for finding in findings
    )
    pictures = "\n".join(picture(*drawn) for drawn in chain(figures, draw_figures(evidence)))
    known = "\n".join(f"<tr><td>{text(name)}</td><td>{text(fact)}</td></tr>" for name, fact in facts.items())
    return page(
        title,
        f"""<p class="verdict">{text(verdict_text(findings))}</p>
<table><tr><th>part</th><th>verdict</th><th>what was found</th></tr>
{rows}</table>
<p>Each head is asked about latents of observations that the model saw, so that wrong dynamics are not blamed on it.</p>
{pictures}
<h2>By steps imagined</h2>
<table class="numbers">{_horizon_table(evidence)}</table>
<h2>How it was measured</h2>
<table class="facts">{known}</table>""",
    )


def _horizon_table(evidence: Evidence) -> str:
    """Rows of the numbers that the figures by steps imagined show."""
    imagined = evidence.imagined
    dreamt, real = imagined_returns(imagined, evidence.gamma)
    columns = {
        f"error of the {evidence.target} (standard deviations)": by_step(imagined.error, imagined.alive).sqrt(),
        "of no change": by_step(imagined.unchanged, imagined.alive).sqrt(),
        "error of the reward": by_step((imagined.reward - imagined.true_reward).square(), imagined.alive).sqrt(),
        "mean return imagined": dreamt.nanmean(0),
        "mean return real": real.nanmean(0),
        "error of the return": (dreamt - real).square().nanmean(0).sqrt(),
        "rows": imagined.alive.sum(0).cpu(),
    }
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("steps", *columns))
    shown = [k for k in _SHOWN if k < imagined.alive.shape[1]] + [imagined.alive.shape[1]]
    body = (
        f"<tr><td>{k}</td>{''.join(f'<td>{float(column[k - 1]):.4g}</td>' for column in columns.values())}</tr>"
        for k in shown
    )
    return f"<tr>{head}</tr>{''.join(body)}"
