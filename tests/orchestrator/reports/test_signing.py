"""Signed reports: what was changed, signed by another or is no report at all is refused."""

from __future__ import annotations

import base64
import json
import stat
import subprocess
from pathlib import Path

import pytest

from orchestrator.reports.signing import (
    PRIVATE,
    PUBLIC,
    BadKey,
    BadSignature,
    public_key,
    signer_in,
    verified,
)

REPORT = b'{"verdict": "fail"}'


def test_what_was_signed_comes_back(tmp_path: Path) -> None:
    envelope = signer_in(tmp_path).sign(REPORT)
    assert verified(envelope, public_key(tmp_path / PUBLIC)) == REPORT


def test_the_key_stays_the_same_and_nobody_else_reads_it(tmp_path: Path) -> None:
    assert signer_in(tmp_path).key_id == signer_in(tmp_path).key_id
    assert stat.S_IMODE((tmp_path / PRIVATE).stat().st_mode) == 0o600


def _changed(envelope: bytes, **fields: object) -> bytes:
    return json.dumps({**json.loads(envelope), **fields}).encode()


def test_one_changed_letter_is_found(tmp_path: Path) -> None:
    forged = base64.b64encode(REPORT.replace(b"fail", b"pass")).decode()
    envelope = _changed(signer_in(tmp_path).sign(REPORT), payload=forged)
    with pytest.raises(BadSignature, match="changed after it was signed"):
        verified(envelope, public_key(tmp_path / PUBLIC))


def test_another_orchestrators_signature_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    envelope = signer_in(tmp_path / "other").sign(REPORT)
    signer_in(tmp_path)
    with pytest.raises(BadSignature, match="not by this key"):
        verified(envelope, public_key(tmp_path / PUBLIC))


def test_a_signature_of_something_else_is_no_report(tmp_path: Path) -> None:
    envelope = _changed(signer_in(tmp_path).sign(REPORT), payloadType="application/vnd.in-toto+json")
    with pytest.raises(BadSignature, match="in-toto"):
        verified(envelope, public_key(tmp_path / PUBLIC))


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"\xff", b"[" * 5000, b'{"payloadType":"x","payload":"%","signatures":[]}']
)
def test_what_is_no_envelope_is_refused(text: bytes, tmp_path: Path) -> None:
    signer_in(tmp_path)
    with pytest.raises(BadSignature, match="no signed report"):
        verified(text, public_key(tmp_path / PUBLIC))


def test_an_envelope_that_nobody_signed_is_refused(tmp_path: Path) -> None:
    envelope = _changed(signer_in(tmp_path).sign(REPORT), signatures=[])
    with pytest.raises(BadSignature, match="signed by nobody"):
        verified(envelope, public_key(tmp_path / PUBLIC))


def test_a_file_that_holds_no_key_is_named(tmp_path: Path) -> None:
    (tmp_path / PRIVATE).write_text("nonsense")
    with pytest.raises(BadKey, match=r"report-key\.pem"):
        signer_in(tmp_path)
    with pytest.raises(BadKey, match=r"nothing\.pem"):
        public_key(tmp_path / "nothing.pem")


def test_openssl_finds_the_signature_right_too(tmp_path: Path) -> None:
    envelope = json.loads(signer_in(tmp_path).sign(REPORT))
    kind = envelope["payloadType"].encode()
    (tmp_path / "signed").write_bytes(b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(REPORT), REPORT))
    (tmp_path / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    argv = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", PUBLIC, "-rawin", "-in", "signed", "-sigfile", "sig"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (tmp_path / "signed").write_bytes(b"another")
    assert subprocess.run(argv, cwd=tmp_path, capture_output=True, check=False).returncode != 0
