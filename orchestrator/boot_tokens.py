"""Boot tokens: what a boot script carries, for one claim by one boot. And what a claim makes of one.

A boot network is often plain HTTP: whoever listens there reads the token. So it is good for little: one claim, by the
MAC address that asked, within half an hour, while the run awaits its boot. The claim travels over pinned TLS and is
answered with another token, which no boot network ever sees, and which the agent uses from then on; after that the
boot token lets the same boot claim again (the answer may have been lost) and does nothing else. Each claim and each
rotation begins a new generation: every boot token handed out before opens nothing any more.

A boot token is signed, not stored: asking for scripts in a loop writes nothing.
"""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from orchestrator.run_record import BootClaim, Run
from orchestrator.steps import Refusal
from orchestrator.tls import write_private
from orchestrator.tokens import hash_of, new_token

VALID_S = 1800.0
"""From the script to the claim: kernel and image have to come over the network in between."""
SHAPE = re.compile(
    r"b1\.([0-9]{1,19})\.([0-9]{1,10})\.([0-9a-f]{12,40})\.([0-9]{1,12})\.[A-Za-z0-9_-]{16}\.([A-Za-z0-9_-]{43})"
)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a boot token says: signed by this server, no word yet on whether it still opens anything."""

    run_id: int
    generation: int
    mac: str
    expires: float
    """Seconds since 1970."""
    token_hash: str


@dataclass(frozen=True, slots=True)
class BootTokens:
    """Makes boot tokens and reads them. `key`: 32 random bytes that never leave the server."""

    key: bytes

    @classmethod
    def of(cls, data: Path) -> BootTokens:
        """With the key in DATA/boot.key (mode 0600), made when it is not there."""
        path = data / "boot.key"
        if not path.exists():
            write_private(path, secrets.token_bytes(32))
        key = path.read_bytes()
        if len(key) < 32:
            raise OSError(f"{path} is damaged: remove it, and boot tokens that are out there end")
        return cls(key)

    def mint(self, run: Run, mac: str, now_s: float) -> str:
        """A token for one boot of the host with this MAC address."""
        plain = mac.replace(":", "")
        fresh = secrets.token_urlsafe(12)
        body = f"b1.{run.run_id}.{run.boot_generation}.{plain}.{int(now_s + VALID_S)}.{fresh}"
        return f"{body}.{self._signature(body)}"

    def read(self, token: str) -> Grant | None:
        """What the token says; None when it is none of this server's."""
        shape = SHAPE.fullmatch(token)
        if shape is None:
            return None
        body, _, signature = token.rpartition(".")
        if not hmac.compare_digest(signature, self._signature(body)):
            return None
        run_id, generation, plain, expires, _ = shape.groups()
        mac = ":".join(re.findall("..", plain))
        return Grant(int(run_id), int(generation), mac, float(expires), hash_of(token))

    def _signature(self, body: str) -> str:
        return base64.urlsafe_b64encode(hmac.digest(self.key, body.encode(), "sha256")).rstrip(b"=").decode()


def check_grant(run: Run, grant: Grant, now_s: float) -> None:
    """Whether a boot token may still be used for the first time. Raises Refusal 403."""
    if grant.run_id != run.run_id:
        raise Refusal(403, "wrong_token", f"This is not the token of run {run.run_id}")
    if grant.generation != run.boot_generation:
        raise Refusal(403, "wrong_token", "Another boot has claimed the run since this boot token was handed out")
    if grant.expires < now_s:
        raise Refusal(403, "wrong_token", f"The boot token was not used within {VALID_S:.0f} s")


def claimed_with_grant(run: Run, grant: Grant, mac: str, boot_id: str, now_s: float) -> tuple[Run, str]:
    """The run bound to the claiming boot, and the token that this boot uses from now on. Raises Refusal."""
    used = run.boot
    if used is None or used.token_hash != grant.token_hash:
        check_grant(run, grant, now_s)
        if mac != grant.mac:
            raise Refusal(409, "other_host", f"The boot token was handed out to {grant.mac}, not to {mac}")
        run = replace(run, boot_generation=run.boot_generation + 1)
    elif (used.mac, used.boot_id) != (mac, boot_id):
        raise Refusal(403, "wrong_token", "The boot token belongs to the boot that first claimed with it")
    session = new_token()
    bound = BootClaim(token_hash=grant.token_hash, session_hash=hash_of(session), mac=mac, boot_id=boot_id)
    return replace(run, boot=bound), session


def claimed_with_session(run: Run, mac: str, boot_id: str) -> Run:
    """A further claim of the boot that the run is bound to. Raises Refusal 403 for another."""
    if run.boot is None or (run.boot.mac, run.boot.boot_id) != (mac, boot_id):
        raise Refusal(403, "wrong_token", "The token belongs to the boot that got it")
    return run


def claimed_with_own(run: Run) -> Run:
    """A new agent with the run's own token: what boot tokens opened before ends."""
    return replace(run, boot=None, boot_generation=run.boot_generation + 1)


def rotated(run: Run) -> tuple[Run, str]:
    """The run with a new token of its own; every other token of it ends. Raises Refusal 410."""
    if run.is_over:
        raise Refusal(410, "run_over", f"Run {run.run_id} is {run.state}")
    token = new_token()
    run = claimed_with_own(replace(run, token_hash=hash_of(token), token_expires_at=None))
    return run, token
