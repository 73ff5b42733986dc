"""The forms that a report comes in: name -> media type, file suffix, and the function that makes its bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orchestrator.reports import junit, ocp, table
from orchestrator.reports.gather import encoded
from orchestrator.reports.signing import Signer
from vetting_agent.report import Report


@dataclass(frozen=True, slots=True)
class Form:
    """One form of the report."""

    media_type: str
    suffix: str
    meaning: str
    made: Callable[[Report, Signer], bytes]


def _html(report: Report, _signer: Signer) -> bytes:
    from vetting_agent.report_html import page

    return page(report).encode("utf-8", errors="backslashreplace")


FORMS: Mapping[str, Form] = {
    "html": Form("text/html; charset=utf-8", "html", "the page for people", _html),
    "json": Form("application/json", "json", "all of it, for programs", lambda report, _: encoded(report)),
    "signed": Form(
        "application/json",
        "signed.json",
        "the same, signed (DSSE)",
        lambda report, signer: signer.sign(encoded(report)),
    ),
    "junit": Form("application/xml", "junit.xml", "JUnit XML", lambda report, _: junit.document(report)),
    "ocp": Form("application/jsonl", "ocp.jsonl", "OCP test and validation", lambda report, _: ocp.document(report)),
    "csv": Form("text/csv; charset=utf-8", "csv", "the measurements as CSV", lambda report, _: table.document(report)),
}
