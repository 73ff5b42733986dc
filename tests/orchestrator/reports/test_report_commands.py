"""report, verify and drift as an operator types them, against a real server with real evidence."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.orchestrator.served import Agent, Served
from tests.orchestrator.test_cli import as_json, created, typed

ZONES = {"disk:A": {"name": "sda", "size_bytes": 1000, "zones": [{"offset": 0, "length": 1000, "mb_s": 5.0}]}}


def archive(**files: bytes) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"04-Storage/{name.replace('_', '.')}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(plain.getvalue())


def send(agent: Agent, content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    answer = agent.send("evidence/Storage?result_id=r1", content=content, headers={"X-Content-SHA256": digest})
    assert answer.status_code == 200, answer.text
    return digest


@pytest.fixture
def agent(served: Served) -> Agent:
    made = created(served, "--stages", "Storage")
    made.claim()
    made.post("Inventory")
    send(made, archive(zones_json=json.dumps(ZONES).encode()))
    made.post("Storage")
    return made


def test_each_form_can_be_had(served: Served, agent: Agent, tmp_path: Path) -> None:
    report = json.loads(typed(served, "report", str(agent.run_id), "--form", "json"))
    assert report["verdict"] == "pass"
    assert report["zones"][0]["component"] == "disk:A"
    page = tmp_path / "report.html"
    typed(served, "report", str(agent.run_id), "--out", str(page))
    assert "rack1-node7" in page.read_text()
    assert ET.fromstring(typed(served, "report", str(agent.run_id), "--form", "junit")).tag == "testsuites"
    for line in typed(served, "report", str(agent.run_id), "--form", "ocp").splitlines():
        assert "sequenceNumber" in json.loads(line)
    assert typed(served, "report", str(agent.run_id), "--form", "csv").startswith("run_id,host,")


def test_a_form_that_is_none_is_refused(served: Served, agent: Agent) -> None:
    answer = served.operator.get(f"/runs/{agent.run_id}/report", params={"form": "pdf"})
    assert answer.status_code == 422
    assert "junit" in answer.text


def test_a_signed_report_is_verified_with_its_evidence_and_a_forged_one_is_not(
    served: Served, agent: Agent, tmp_path: Path
) -> None:
    signed, evidence = tmp_path / "signed.json", tmp_path / "evidence"
    typed(served, "report", str(agent.run_id), "--form", "signed", "--out", str(signed))
    typed(served, "evidence", str(agent.run_id), "--download", str(evidence))
    said = typed(served, "verify", str(signed), "--evidence", str(evidence))
    assert "Verdict: pass" in said
    assert "all 1 files are there" in said
    (piece,) = evidence.iterdir()
    piece.write_bytes(piece.read_bytes() + b"x")
    assert "NOT THERE" in typed(served, "verify", str(signed), "--evidence", str(evidence), exit_code=1)
    key = tmp_path / "key.pem"
    key.write_text(typed(served, "report-key"))
    assert "unchanged" in typed(tmp_path, "verify", str(signed), "--key", str(key))
    forged = json.loads(signed.read_bytes())
    forged["payload"] = forged["payload"][:-8] + "AAAA" + forged["payload"][-4:]
    signed.write_text(json.dumps(forged))
    assert "NOT VALID" in typed(served, "verify", str(signed), exit_code=1)
    assert "nothing.json" in typed(served, "verify", str(tmp_path / "nothing.json"), exit_code=2)


def test_evidence_that_is_no_archive_costs_only_the_chart(served: Served) -> None:
    made = created(served, "--stages", "Storage")
    made.claim()
    made.post("Inventory")
    send(made, gzip.compress(b"no tar"))
    made.post("Storage")
    assert json.loads(typed(served, "report", str(made.run_id), "--form", "json"))["zones"] == []


def test_the_report_of_a_run_that_never_began_passes_nothing(served: Served) -> None:
    made = created(served)
    report = json.loads(typed(served, "report", str(made.run_id), "--form", "json"))
    assert report["verdict"] == "incomplete"


def test_drift_between_two_runs(served: Served, agent: Agent) -> None:
    other = created(served, "--stages", "Storage")
    assert "Storage" in typed(served, "drift", str(agent.run_id), str(other.run_id))
    assert typed(served, "drift", str(agent.run_id), str(agent.run_id)) == "Nothing changed\n"
    kinds = {one["kind"] for one in as_json(served, "drift", str(agent.run_id), str(other.run_id))}
    assert "verdict" in kinds
