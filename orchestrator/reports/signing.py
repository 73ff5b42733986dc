"""Signed reports: an Ed25519 signature in a DSSE envelope, which any tool that knows DSSE can check.

{"payloadType": "application/vnd.vetting.report+json", "payload": base64, "signatures": [{"keyid": hex, "sig": base64}]}

The signature is over DSSE's pre-authentication encoding of type and payload. `keyid` is the SHA-256 of the public key
in DER. Source: https://github.com/secure-systems-lab/dsse, protocol.md.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from orchestrator.tls import write_private

PAYLOAD_TYPE = "application/vnd.vetting.report+json"
PRIVATE, PUBLIC = "report-key.pem", "report-key.pub.pem"
LIMIT_BYTES = 64 * 2**20


class BadSignature(Exception):
    """The envelope is malformed, of another kind, or not signed by this key; `str()` says which."""


class BadKey(Exception):
    """There is no Ed25519 key where one must be; `str()` names the place."""


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    keyid: str
    sig: str


class Envelope(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    payload_type: str
    payload: str
    signatures: list[Signature]


@dataclass(frozen=True, slots=True)
class Signer:
    """The key of one orchestrator."""

    key: Ed25519PrivateKey

    @property
    def key_id(self) -> str:
        return key_id(self.key.public_key())

    @property
    def public_pem(self) -> bytes:
        return _public_pem(self.key.public_key())

    def sign(self, payload: bytes) -> bytes:
        """The envelope around a report, as JSON."""
        signature = base64.b64encode(self.key.sign(_encoded(PAYLOAD_TYPE, payload))).decode()
        envelope = Envelope(
            payload_type=PAYLOAD_TYPE,
            payload=base64.b64encode(payload).decode(),
            signatures=[Signature(keyid=self.key_id, sig=signature)],
        )
        return msgspec.json.encode(envelope)


def signer_in(folder: Path) -> Signer:
    """The key of this data folder; made on first use, the private half with mode 0600. Raises BadKey, OSError."""
    path = folder / PRIVATE
    if not path.exists():
        _make(folder)
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as problem:
        raise BadKey(f"{path} holds no private key: {problem}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise BadKey(f"{path} holds no Ed25519 key")
    return Signer(key)


def _make(folder: Path) -> None:
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_private(folder / PUBLIC, _public_pem(key.public_key()), mode=0o644)
    write_private(folder / PRIVATE, pem)


def _public_pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def public_key(path: Path) -> Ed25519PublicKey:
    """The public key in a PEM file. Raises BadKey."""
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except OSError as problem:
        raise BadKey(f"{path}: {problem.strerror}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise BadKey(f"{path} holds no public key in PEM") from None
    if not isinstance(key, Ed25519PublicKey):
        raise BadKey(f"{path} holds no Ed25519 key")
    return key


def key_id(key: Ed25519PublicKey) -> str:
    """SHA-256 over the public key in DER, in hex."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def verified(envelope: bytes, key: Ed25519PublicKey) -> bytes:
    """The report inside, once its signature by `key` has been found right. Raises BadSignature."""
    try:
        whole = msgspec.json.decode(envelope, type=Envelope)
        payload = base64.b64decode(whole.payload, validate=True)
        signatures = [base64.b64decode(one.sig, validate=True) for one in whole.signatures]
    except (msgspec.MsgspecError, binascii.Error, ValueError, RecursionError) as problem:
        raise BadSignature(f"this is no signed report: {problem}") from None
    if whole.payload_type != PAYLOAD_TYPE:
        raise BadSignature(f"what is signed here is no report, but {whole.payload_type!r}")
    for signature in signatures:
        try:
            key.verify(signature, _encoded(whole.payload_type, payload))
        except InvalidSignature:
            continue
        return payload
    raise BadSignature(_mismatch(whole, key))


def _mismatch(whole: Envelope, key: Ed25519PublicKey) -> str:
    wanted = key_id(key)
    if wanted in {one.keyid for one in whole.signatures}:
        return "the report was changed after it was signed: the signature does not fit"
    signers = ", ".join(one.keyid[:16] for one in whole.signatures) or "nobody"
    return f"it is signed by {signers}, not by this key ({wanted[:16]})"


def _encoded(kind: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    name = kind.encode()
    return b"DSSEv1 %d %s %d %s" % (len(name), name, len(payload), payload)
