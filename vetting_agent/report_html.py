"""The report as one HTML page: no script, no network, readable on a phone, on paper and in the dark. Pure.

Every text that came from outside goes through `text()`: disks name themselves, and some names are hostile. The page's
own policy forbids scripts and any load on top of that.
"""

from __future__ import annotations

from importlib import resources

from vetting_agent.printable import clock, figure
from vetting_agent.report import Report, ReportFinding, ReportStage, finding_rank, seconds_between
from vetting_agent.report_charts import SUBJECTS, Band, bands_of, chart
from vetting_agent.report_findings import listed, untested
from vetting_agent.report_inventory import inventory_section
from vetting_agent.report_markup import section, table, text
from vetting_agent.report_zones import zone_charts
from vetting_agent.verdict import Untested
from vetting_agent.wire import WireMeasurement

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
VERDICT_WORDS = {
    "pass": "Pass",
    "fail": "Fail",
    "unknown": "Unknown",
    "not_applicable": "Not applicable",
    "cancelled": "Cancelled",
    "incomplete": "Incomplete",
    "interrupted": "Interrupted",
    "running": "Not finished",
    "not_run": "Not run",
    "not_selected": "Not selected",
}
FINDING_RANKS = {"error": "Faults", "doubt": "Could not be judged", "warning": "Warnings", "info": "Notes"}


def page(report: Report) -> str:
    """The whole page."""
    css = resources.files("vetting_agent").joinpath("report.css").read_text(encoding="utf-8")
    title = f"{text(report.host)}: {verdict_word(report.verdict)}"
    sections = (_banner(report), _walk(report), _findings(report), _not_tested(report), _charts(report), _disks(report))
    tables = (
        _measurements(report),
        _coverage(report),
        inventory_section(report.inventory),
        _log(report),
        _tools(report),
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{title}</title><style>{css}</style></head>\n<body><main>"
        f"{''.join(sections)}{''.join(tables)}{_footer(report)}</main></body></html>\n"
    )


def verdict_word(verdict: str) -> str:
    """The verdict for people."""
    return VERDICT_WORDS.get(verdict, text(verdict))


def chip(verdict: str) -> str:
    """The verdict as a small coloured label."""
    known = verdict if verdict in VERDICT_WORDS else "unknown"
    return f'<span class="chip {known}">{verdict_word(verdict)}</span>'


def _banner(report: Report) -> str:
    scope = "" if report.whole else '<p class="scope">Verdict of the selected stages only.</p>'
    trouble = f'<p class="trouble">{text(report.trouble)}</p>' if report.trouble else ""
    facts = (
        ("Host", report.host),
        ("Machine", report.machine),
        ("Profile", report.profile),
        ("Started", shown_time(report.started_at)),
        ("Took", clock(report.duration_s)),
    )
    listed = "".join(f"<div><dt>{name}</dt><dd>{text(value)}</dd></div>" for name, value in facts if value)
    return (
        f'<header class="banner {text(report.verdict)}"><p class="word">{verdict_word(report.verdict)}</p>'
        f"<h1>{text(report.headline)}</h1>{scope}{trouble}<dl>{listed}</dl></header>\n"
    )


def shown_time(stamp: str) -> str:
    """An RFC 3339 time for people, still in UTC."""
    return stamp.replace("T", " ").partition(".")[0].removesuffix("Z") + " UTC"


def stage_seconds(report: Report) -> dict[str, tuple[float, float]]:
    """Start and end of each stage that ran, in seconds since the run began."""
    found = {}
    for stage in report.stages:
        start = stage.started_at and seconds_between(report.started_at, stage.started_at)
        end = seconds_between(report.started_at, stage.finished_at or report.finished_at)
        if isinstance(start, float) and end is not None:
            found[stage.stage] = (max(0.0, start), max(start, end))
    return found


def _walk(report: Report) -> str:
    seconds = stage_seconds(report)
    whole = max((end for _, end in seconds.values()), default=0.0)
    rows = "".join(_walk_row(stage, seconds.get(stage.stage), max(whole, 1.0)) for stage in report.stages)
    return section("Stages", f'<ol class="walk">{rows}</ol>')


def _walk_row(stage: ReportStage, seconds: tuple[float, float] | None, whole: float) -> str:
    bar = ""
    if seconds is not None:
        left, width = 100 * seconds[0] / whole, max(0.8, 100 * (seconds[1] - seconds[0]) / whole)
        bar = f'<i class="{text(stage.verdict)}" style="left:{min(left, 99.2):.2f}%;width:{width:.2f}%"></i>'
    again = f" · {stage.attempts} attempts" if stage.attempts > 1 else ""
    took = f'<span class="took">{clock(stage.duration_s)}{again}</span>' if stage.duration_s is not None else ""
    return (
        f'<li class="{text(stage.verdict)}"><div class="name"><b>{text(stage.stage)}</b>'
        f"<small>{text(stage.title)}</small></div>{chip(stage.verdict)}"
        f'<p>{text(stage.headline)}</p>{took}<div class="bar">{bar}</div></li>'
    )


def _findings(report: Report) -> str:
    parts = []
    found = listed(report)
    for rank, name in FINDING_RANKS.items():
        cards = [_card(stages, finding, rank) for stages, finding in found if finding_rank(finding) == rank]
        parts.append(f"<h3>{name} ({len(cards)})</h3>{''.join(cards)}" if cards else "")
    return section("Findings", "".join(parts) or '<p class="empty">Nothing was found.</p>')


def _card(stage: str, finding: ReportFinding, rank: str) -> str:
    lines = [text(line) for line in finding.evidence.splitlines()]
    evidence = "<pre>{}</pre>".format("\n".join(lines)) if lines else ""
    return (
        f'<article class="finding {rank}"><h4>{text(finding.message)}</h4>'
        f'<p class="where"><b>{text(finding.component)}</b> · {text(stage)} · '
        f"<code>{text(finding.reason_code)}</code></p>"
        f"{evidence}{_advice(finding)}</article>"
    )


def _advice(finding: ReportFinding) -> str:
    if finding.advice is None or finding.severity == "info":
        return ""
    advice = finding.advice
    rows = (("Meaning", advice.meaning), ("Likely cause", advice.cause), ("Do next", advice.action))
    listed = "".join(f"<div><dt>{name}</dt><dd>{text(words)}</dd></div>" for name, words in rows)
    return f"<dl>{listed}<div><dt>Who</dt><dd>{text(advice.owner)}</dd></div></dl>"


def _not_tested(report: Report) -> str:
    rows = "".join(_untested(stages, one) for stages, one in untested(report))
    return section("Not tested, or only in part", f'<ul class="plain">{rows}</ul>' if rows else "")


def _untested(stages: str, one: Untested) -> str:
    part = "" if one.component in {"", one.stage} else f" <code>{text(one.component)}</code>"
    return f"<li><b>{text(stages)}</b>{part}<span>{text(one.text)}</span></li>"


def _charts(report: Report) -> str:
    seconds = stage_seconds(report)
    bands: list[Band] = bands_of(report, seconds)
    drawn = [part for subject in SUBJECTS for part in chart(subject, report.series, bands, max(report.duration_s, 1.0))]
    return section("Over time", "".join(drawn))


def _disks(report: Report) -> str:
    return section("Disks by place", "".join(zone_charts(report.zones)))


def _measurements(report: Report) -> str:
    parts = []
    for stage in report.stages:
        rows = [_measurement(one) for one in stage.measurements]
        markup = table(("Component", "Measurement", "Value", "Limit", "Within"), rows, fold=text(stage.stage))
        parts.append(f"<h3>{text(stage.stage)}</h3>{markup}" if markup else "")
    return section("Measurements", "".join(parts))


def _measurement(one: WireMeasurement) -> tuple[str, ...]:
    unit = f' <span class="unit">{text(one.unit)}</span>' if one.unit else ""
    limit = "" if one.limit is None else f"{figure(one.limit)}{unit}"
    within = "" if one.ok is None else ('<span class="yes">yes</span>' if one.ok else '<span class="no">no</span>')
    return text(one.component), text(one.name), f"<b>{figure(one.value)}</b>{unit}", limit, within


def _coverage(report: Report) -> str:
    rows = [
        (text(stage.stage), text(component), _share(part))
        for stage in report.stages
        for component, part in sorted(stage.coverage.items())
    ]
    return section("Coverage", table(("Stage", "Component", "Part tested"), rows, fold="Coverage"))


def _share(part: float) -> str:
    share = 100 * min(1.0, max(0.0, part))
    return f'<span class="meter"><i style="width:{share:.1f}%"></i></span> {figure(share)} %'


def _log(report: Report) -> str:
    rows = [(text(shown_time(line.ts)), text(line.stage or "–"), text(line.text)) for line in report.notable_log]
    return section("Warnings and errors of the log", table(("Time", "Stage", "Line"), rows, fold="Log"))


def _tools(report: Report) -> str:
    versions = {tool: found for stage in report.stages for tool, found in stage.tool_versions.items()}
    rows = [(text(tool), text(found)) for tool, found in sorted(versions.items())]
    return section("Tools", table(("Tool", "Version"), rows))


def _footer(report: Report) -> str:
    run = "" if report.run_id is None else f" · run {report.run_id}"
    return (
        f"<footer>Made by {text(report.generator)} at {text(shown_time(report.generated_at))}{run}. "
        f"Raw tool output lies beside this file in <code>{text(report.evidence)}</code>.</footer>"
    )
