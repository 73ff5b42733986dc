"""The certificate, and what a client sees of it."""

from __future__ import annotations

import hashlib
import socket
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from orchestrator.tls import certificate_in
from tests.orchestrator.served import Served


def test_it_is_made_once_and_its_key_is_private(tmp_path: Path) -> None:
    first = certificate_in(tmp_path)
    again = certificate_in(tmp_path)
    assert first == again
    assert stat.S_IMODE(first.key.stat().st_mode) == 0o600
    certificate = x509.load_pem_x509_certificate(first.certificate.read_bytes())
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    assert len(first.fingerprint) == 64


def _handshake(port: int, version: ssl.TLSVersion) -> tuple[str | None, bytes]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with socket.create_connection(("127.0.0.1", port)) as plain, context.wrap_socket(plain) as secure:
        return secure.version(), secure.getpeercert(binary_form=True) or b""


def test_the_printed_fingerprint_is_that_of_the_server(served: Served) -> None:
    for version, name in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
        spoken, der = _handshake(served.port, version)
        assert spoken == name
        assert hashlib.sha256(der).hexdigest() == served.info["fingerprint"]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_old_tls_is_not_spoken(served: Served) -> None:
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        _handshake(served.port, ssl.TLSVersion.TLSv1_1)
