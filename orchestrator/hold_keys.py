"""The key pair of a hold: one per run, so that access to one held host opens no other."""

from __future__ import annotations

from orchestrator.store import HoldKey

VALID_FOR_S = 12 * 3600.0


def new_hold_key(run_id: int, expires_at: str) -> HoldKey:
    """An Ed25519 pair in OpenSSH's forms."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return HoldKey(
        private_key=private.decode(),
        authorized_key=f"{public.decode()} vetting-run-{run_id}",
        expires_at=expires_at,
    )
