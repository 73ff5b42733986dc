"""Which keys may be installed, and what the file looks like before, during and after a hold."""

from __future__ import annotations

import base64
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from vetting_agent.errors import BadHoldKey
from vetting_agent.hold_key import parse_expiry, parse_key
from vetting_agent.key_file import KeyFile

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def field(content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + content


def line(kind: str, *fields: bytes) -> str:
    return f"{kind} {base64.b64encode(b''.join(field(one) for one in fields)).decode()}"


def ed25519(seed: int = 1) -> str:
    return line("ssh-ed25519", b"ssh-ed25519", bytes([seed]) * 32)


KEY = ed25519()
BLOB = KEY.split()[1]
MODULUS = b"\x00" + b"\xff" * 256

BAD = {
    "empty": "",
    "blank": " \n",
    "two lines": f"{KEY}\n{ed25519(2)}\n",
    "two newlines": f"{KEY}\n\n",
    "leading newline": f"\n{KEY}",
    "carriage return": f"{KEY}\r\n",
    "NUL": f"{KEY} a\0b",
    "escape": f"{KEY} \x1b[2J",
    "options": f'command="sh" {KEY}',
    "options that look harmless": f"no-pty {KEY}",
    "comment line": f"#{KEY}",
    "leading space": f" {KEY}",
    "type only": "ssh-ed25519",
    "no type": BLOB,
    "type of another key": f"ssh-rsa {BLOB}",
    "unknown type": line("ssh-dss", b"ssh-dss", b"x"),
    "certificate": f"ssh-ed25519-cert-v01@openssh.com {BLOB}",
    "private key": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "not base64": "ssh-ed25519 AAAA!AAA",
    "base64 without padding": f"ssh-ed25519 {BLOB[:-2]}",
    "cut short": f"ssh-ed25519 {base64.b64encode(base64.b64decode(BLOB)[:-4]).decode()}",
    "bytes too many": line("ssh-ed25519", b"ssh-ed25519", b"\1" * 32, b"more"),
    "short key": line("ssh-ed25519", b"ssh-ed25519", b"\1" * 31),
    "weak RSA": line("ssh-rsa", b"ssh-rsa", b"\1\0\1", b"\x00" + b"\xff" * 128),
    "negative RSA": line("ssh-rsa", b"ssh-rsa", b"\1\0\1", b"\xff" * 256),
    "even RSA exponent": line("ssh-rsa", b"ssh-rsa", b"\4", MODULUS),
    "curve of another type": line("ecdsa-sha2-nistp256", b"ecdsa-sha2-nistp256", b"nistp384", b"\4" + b"x" * 64),
    "compressed point": line("ecdsa-sha2-nistp256", b"ecdsa-sha2-nistp256", b"nistp256", b"\2" + b"x" * 32),
    "very long": f"{KEY} {'x' * 20000}",
}


def key_file(tmp_path: Path) -> KeyFile:
    state = tmp_path / "state"
    state.mkdir(exist_ok=True)
    return KeyFile(tmp_path / "home" / ".ssh" / "authorized_keys", state)


def install(keys: KeyFile, text: str = KEY, expires_at: datetime | None = None) -> bool:
    key = parse_key(text)
    return keys.install(key, key.line(expires_at), 1000.0)


def existing(keys: KeyFile, content: str) -> None:
    keys.path.parent.mkdir(parents=True, exist_ok=True)
    keys.path.write_text(content)


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_key_is_refused_and_the_file_is_untouched(kind: str, tmp_path: Path) -> None:
    keys = key_file(tmp_path)
    existing(keys, "ssh-rsa AAAA other")
    before = keys.path.stat()
    with pytest.raises(BadHoldKey):
        install(keys, BAD[kind])
    after = keys.path.stat()
    assert keys.path.read_text() == "ssh-rsa AAAA other"
    assert (after.st_ino, after.st_mtime_ns, after.st_mode) == (before.st_ino, before.st_mtime_ns, before.st_mode)


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
def test_keys_of_ssh_keygen_are_taken_and_named_as_it_names_them(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "run 7", "-f", path], check=True)
    key = parse_key((tmp_path / "id.pub").read_text())
    said = subprocess.run(["ssh-keygen", "-lf", path], check=True, capture_output=True, text=True).stdout
    assert key.fingerprint == said.split()[1]
    assert key.line(None) + "\n" == (tmp_path / "id.pub").read_text()


def test_the_expiry_is_written_as_sshd_reads_it() -> None:
    moment = parse_expiry("2026-01-02T03:04:05.5+01:00", NOW)
    assert parse_key(KEY).line(moment) == f'expiry-time="20260102020405Z" {KEY}'
    assert parse_expiry(None, NOW) is None


@pytest.mark.parametrize("text", ["tomorrow", "2026-01-02T03:04:05", "2025-12-31T23:59:59Z", ""])
def test_an_expiry_that_is_past_or_makes_no_sense_refuses_the_key(text: str) -> None:
    with pytest.raises(BadHoldKey):
        parse_expiry(text, NOW)


@pytest.mark.parametrize(
    "before", ["", "ssh-rsa AAAA me\n", "ssh-rsa AAAA me", "# a comment\n\nssh-rsa AAAA me\n\n", "x\r\ny"]
)
def test_everything_else_survives_byte_for_byte(before: str, tmp_path: Path) -> None:
    keys = key_file(tmp_path)
    existing(keys, before)
    content = keys.path.read_bytes()
    assert install(keys)
    lines = keys.path.read_bytes().split(b"\n")
    assert lines[-2:] == [KEY.encode(), b""]
    assert keys.path.read_bytes().startswith(content)
    assert keys.remove() is not None
    assert keys.path.read_bytes() == content


def test_modes_are_set_where_things_exist_and_where_they_do_not(tmp_path: Path) -> None:
    keys = key_file(tmp_path)
    install(keys)
    assert keys.path.stat().st_mode & 0o7777 == 0o600
    assert keys.path.parent.stat().st_mode & 0o7777 == 0o700
    keys.path.chmod(0o644)
    keys.path.parent.chmod(0o755)
    install(keys)
    assert keys.path.stat().st_mode & 0o7777 == 0o600
    assert keys.path.parent.stat().st_mode & 0o7777 == 0o700


def test_the_same_key_twice_is_one_line_and_a_new_one_takes_its_place(tmp_path: Path) -> None:
    keys = key_file(tmp_path)
    existing(keys, "ssh-rsa AAAA me")
    install(keys)
    install(keys)
    assert keys.path.read_text().count(BLOB) == 1
    install(keys, KEY, NOW + timedelta(days=1))
    assert keys.path.read_text().count(BLOB) == 1
    assert "expiry-time" in keys.path.read_text()
    install(keys, ed25519(2))
    assert BLOB not in keys.path.read_text()
    keys.remove()
    assert keys.path.read_text() == "ssh-rsa AAAA me"


@pytest.mark.parametrize("form", [KEY, f"{KEY} mine", f'from="10.0.0.1" {KEY} x'])
def test_a_key_that_was_there_before_stays_as_it_is(form: str, tmp_path: Path) -> None:
    keys = key_file(tmp_path)
    existing(keys, form + "\n")
    assert not install(keys)
    assert keys.path.read_text() == form + "\n"
    assert keys.remove() is None
    assert keys.path.read_text() == form + "\n"


def test_a_commented_out_key_is_not_there(tmp_path: Path) -> None:
    keys = key_file(tmp_path)
    existing(keys, f"#{KEY}\n")
    assert install(keys)


def test_keys_added_during_the_hold_survive_its_end(tmp_path: Path) -> None:
    keys = key_file(tmp_path)
    existing(keys, "ssh-rsa AAAA me")
    install(keys)
    with keys.path.open("a") as handle:
        handle.write("ssh-rsa BBBB colleague\n")
    keys.remove()
    assert keys.path.read_text() == "ssh-rsa AAAA me\nssh-rsa BBBB colleague\n"


def test_links_are_not_followed(tmp_path: Path) -> None:
    keys = key_file(tmp_path)
    target = tmp_path / "target"
    target.write_text("precious\n")
    keys.path.parent.mkdir(parents=True)
    keys.path.symlink_to(target)
    with pytest.raises(BadHoldKey, match="no regular file"):
        install(keys)
    assert target.read_text() == "precious\n"
    keys.path.unlink()
    keys.path.parent.rmdir()
    (tmp_path / "elsewhere").mkdir()
    keys.path.parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadHoldKey, match="symbolic link"):
        install(keys)
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.root
def test_a_folder_of_somebody_else_is_not_written_to(tmp_path: Path) -> None:
    keys = key_file(tmp_path)
    keys.path.parent.mkdir(parents=True)
    os.chown(keys.path.parent, 65534, 65534)
    with pytest.raises(BadHoldKey, match="somebody else"):
        install(keys)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    keys = key_file(tmp_path)
    existing(keys, "ssh-rsa AAAA me\n")
    keys.state_dir.rmdir()  # what is to be installed cannot be noted: then it is not installed either
    with pytest.raises(OSError, match="No such file"):
        install(keys)
    assert keys.path.read_text() == "ssh-rsa AAAA me\n"
    assert [one.name for one in keys.path.parent.iterdir()] == ["authorized_keys"]


def test_another_process_finds_what_was_installed(tmp_path: Path) -> None:
    install(key_file(tmp_path))
    again = key_file(tmp_path)
    installed = again.installed()
    assert installed is not None
    assert installed.line == KEY
    assert again.remove() == installed
    assert again.path.read_text() == ""
    again.forget()
    assert again.remove() is None
