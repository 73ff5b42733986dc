"""The site's own SSH keys: the file is checked at the start, and held hosts are given what stands in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.site_keys import BadSiteKeys, site_keys_in
from tests.orchestrator.making import result
from tests.orchestrator.served import serving
from tests.orchestrator.web.rig import add_user, logged_in
from vetting_agent.hold_key import MOST_SITE_KEYS

BLOB = "AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
KEY = f"ssh-ed25519 {BLOB} night-shift"


def file_of(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "site_keys"
    path.write_text(text)
    return path


def test_a_file_of_keys(tmp_path: Path) -> None:
    (key,) = site_keys_in(file_of(tmp_path, f"# ours\n\n  {KEY}  \n{KEY}\n"))
    assert (key.line, key.kind, key.comment) == (KEY, "ssh-ed25519", "night-shift")
    ssh_keygen = subprocess.run(["ssh-keygen", "-lf", tmp_path / "site_keys"], capture_output=True, text=True)
    assert key.fingerprint in ssh_keygen.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no key"),
        ("# nothing\n", "holds no key"),
        (f'{KEY}\n\nfrom="10.0.0.0/8" {KEY}\n', "line 3: the key cannot be taken: it does not begin with the type"),
        (f"# ours\nssh-ed25519 {BLOB[:-4]}\n", "line 2"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\n", "line 1"),
        (f"{KEY}\x07\n", "line 1: the key cannot be taken: it holds a control character"),
    ],
)
def test_what_is_no_such_file_is_named_by_file_and_line(text: str, said: str, tmp_path: Path) -> None:
    path = file_of(tmp_path, text)
    with pytest.raises(BadSiteKeys) as caught:
        site_keys_in(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
    with pytest.raises(BadSiteKeys):
        site_keys_in(tmp_path)


def test_a_server_does_not_start_with_a_bad_file(tmp_path: Path) -> None:
    path = file_of(tmp_path, "no key\n")
    argv = [
        sys.executable,
        "-m",
        "orchestrator",
        "serve",
        "--data",
        str(tmp_path / "data"),
        "--site-ssh-keys",
        str(path),
    ]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert f"--site-ssh-keys {path}, line 1" in ended.stderr


def test_a_held_host_is_given_them(tmp_path: Path) -> None:
    assert MOST_SITE_KEYS == 64, "the wire's page says so"
    path = file_of(tmp_path, KEY + "\n")
    with serving(tmp_path / "data", arguments=["--site-ssh-keys", str(path)]) as served:
        agent = served.create(host="h", stages=["SMART"])
        agent.claim()
        agent.call("result", result("Inventory"))
        agent.call("result", result("SMART", "fail"))
        assert agent.call("hold", {"ip": "10.0.0.17"})["site_keys"] == [KEY]
        add_user(served, "vera", "viewer")
        with logged_in(served, "vera") as client:
            page = client.get(f"/runs/{agent.run_id}").text
        (key,) = site_keys_in(path)
        for words in ("1 key of the site opens it, too", key.fingerprint, "night-shift"):
            assert words in page
