"""The server's certificate: self-signed, made on first start, trusted by its fingerprint alone."""

from __future__ import annotations

import hashlib
import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

VALID_FOR = timedelta(days=3650)


@dataclass(frozen=True, slots=True)
class Certificate:
    """Files of a certificate and its key (PEM), and the SHA-256 of the certificate's DER in hex."""

    certificate: Path
    key: Path
    fingerprint: str


def certificate_in(folder: Path) -> Certificate:
    """The certificate of this data folder; made when it is not there yet. The key has mode 0600."""
    certificate, key = folder / "tls-certificate.pem", folder / "tls-key.pem"
    if not (certificate.exists() and key.exists()):
        _make(certificate, key)
    return Certificate(certificate, key, fingerprint_of(certificate))


def fingerprint_of(certificate: Path) -> str:
    """SHA-256 over the DER form, in hex: the value of `vetting.tls_fpr`."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.read_text())).hexdigest()


def _make(certificate: Path, key: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "vetting-orchestrator")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # hosts with a clock that is a little slow
        .not_valid_after(now + VALID_FOR)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("vetting-orchestrator")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_private(key, pem)
    write_private(certificate, signed.public_bytes(serialization.Encoding.PEM), mode=0o644)


def write_private(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file whole or not at all, never readable by others on the way."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
