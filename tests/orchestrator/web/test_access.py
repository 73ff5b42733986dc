"""Who gets in, what they may do, and what a stranger, another site or a guesser meets. Over real HTTPS."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from orchestrator.web.guard import COOKIE
from tests.orchestrator.served import Served
from tests.orchestrator.test_cli import as_json, typed
from tests.orchestrator.web.rig import PASSWORD, add_user, console_url, logged_in, visitor

PAGES = ("/", "/audit", "/access", "/password", "/fleet/stream", "/runs/1", "/operator/v1/runs")


def audit_of(served: Served) -> list[dict[str, str]]:
    return list(served.operator.get("/audit", params={"limit": 500}).json())


def test_the_first_start_prints_a_code_that_works_once(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "orchestrator", "serve", "--data", str(tmp_path / "d"), "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    said = "".join(process.stdout.readline() for _ in range(7))
    url = re.search(r"Console\s+(https://\S+)", said)
    code = re.search(r"one-time code (\S+)", said)
    assert url is not None
    assert code is not None
    base = url[1].rstrip("/")
    with httpx.Client(base_url=base, verify=False, headers={"Origin": base}, trust_env=False) as client:
        form = {"code": "0000-0000", "name": "ada", "password": PASSWORD, "again": PASSWORD}
        assert client.get("/login").headers["location"] == "/first-login"
        assert client.post("/first-login", data=form).status_code == 403
        assert client.post("/first-login", data={**form, "code": code[1], "again": "another one"}).status_code == 422
        assert client.post("/first-login", data={**form, "code": code[1]}).status_code == 303
        assert "Fleet" in client.get("/").text
        client.cookies.clear()
        assert client.get("/first-login").headers["location"] == "/login"
        assert client.post("/first-login", data={**form, "code": code[1], "name": "eve"}).status_code == 403
    process.terminate()
    out, err = process.communicate(timeout=20)
    assert (out, err) == ("", "")
    for file in (tmp_path / "d").rglob("*"):
        if file.is_file():
            assert code[1].encode() not in file.read_bytes(), f"the one-time code is in {file.name}"
    again = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert again.stdout is not None
    assert "one-time" not in "".join(again.stdout.readline() for _ in range(5))
    again.terminate()
    again.communicate(timeout=20)


def test_nothing_is_shown_to_strangers(staffed: Served) -> None:
    staffed.create(host="secret-host")
    with visitor(staffed) as stranger:
        for path in PAGES:
            answer = stranger.get(path)
            assert answer.status_code == 303, path
            assert answer.headers["location"].startswith("/login")
            assert "secret-host" not in answer.text
        assert stranger.get("/runs/1", headers={"Accept": "application/json"}).status_code == 401
        assert stranger.post("/runs/1/release").status_code == 303
        assert stranger.get("/", headers={"Cookie": f"{COOKIE}=wrong"}).status_code == 303
        assert stranger.get("/", headers={"Authorization": "Bearer vct_wrong"}).status_code == 303


def test_the_cookie_is_tied_down_and_only_its_hash_is_kept(staffed: Served) -> None:
    with logged_in(staffed, "vera") as client:
        secret = client.cookies[COOKIE]
    with visitor(staffed) as client:
        answer = client.post("/login", data={"name": "vera", "password": PASSWORD})
        said = answer.headers["set-cookie"]
        assert all(word in said for word in ("HttpOnly", "Secure", "SameSite=strict", "Path=/"))
        assert "Domain" not in said
    content = b"".join(path.read_bytes() for path in staffed.data.glob("orchestrator.db*"))
    assert secret.encode() not in content
    assert PASSWORD.encode() not in content
    assert b"$argon2id$" in content


def test_logging_out_ends_the_session(staffed: Served) -> None:
    with logged_in(staffed, "vera") as client:
        kept = dict(client.cookies)
        assert client.post("/logout").status_code == 303
    with visitor(staffed) as client:
        client.cookies.update(kept)
        assert client.get("/").status_code == 303


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1", ""])
def test_another_sites_calls_are_refused(staffed: Served, origin: str) -> None:
    agent = staffed.create(host="csrf")
    with logged_in(staffed, "olaf") as client:
        del client.headers["Origin"]
        headers = {"Origin": origin} if origin else {}
        for path in (f"/runs/{agent.run_id}/release", "/logout", "/login", "/fleet/act"):
            answer = client.post(path, headers=headers)
            assert answer.status_code == 403, path
            assert answer.json()["error"]["code"] == "wrong_origin"
    assert staffed.run(agent.run_id)["state"] == "InventoryCheck"


def test_a_viewer_sees_all_and_acts_on_nothing(staffed: Served) -> None:
    agent = staffed.create(host="looked-at")
    agent.claim()
    with logged_in(staffed, "vera") as client:
        page = client.get(f"/runs/{agent.run_id}").text
        assert "looked-at" in page
        assert "hx-post" not in page
        for path in ("order", "release", "again", "wipe", "wipe/x", "waive", "waive/end", "key"):
            answer = client.post(f"/runs/{agent.run_id}/{path}", data={"cmd": "abort"})
            assert (answer.status_code, "not_allowed" in answer.text) == (403, True), path
        assert client.post("/fleet/act", data={"act": "release", "run": agent.run_id}).status_code == 403
        assert client.get("/operator/v1/runs").status_code == 200
        assert client.get(f"/operator/v1/runs/{agent.run_id}/hold-key").status_code == 403
        assert client.post("/operator/v1/runs", json={"host": "x"}).status_code == 403
        assert client.get("/audit").status_code == 403
    assert staffed.run(agent.run_id)["directives"] == []


def test_an_operator_is_no_admin(staffed: Served) -> None:
    with logged_in(staffed, "olaf") as client:
        assert client.get("/audit").status_code == 200
        assert client.get("/access").status_code == 403
        form = {"name": "eve", "role": "admin", "password": PASSWORD}
        assert client.post("/access/users", data=form).status_code == 403
        assert client.post("/access/users/olaf/role", data={"role": "admin"}).status_code == 403


def test_an_admin_makes_people_and_the_last_admin_stays(staffed: Served) -> None:
    with logged_in(staffed, "ada") as client:
        form = {"name": "newt", "role": "viewer", "password": PASSWORD}
        assert client.post("/access/users", data=form).status_code == 303
        assert client.post("/access/users", data=form).status_code == 409
        assert client.post("/access/users", data={**form, "name": "short", "password": "short"}).status_code == 422
        with logged_in(staffed, "newt") as newt:
            assert client.post("/access/users/newt/role", data={"role": "operator"}).status_code == 303
            assert newt.get("/").status_code == 303, "a changed role ends the sessions of the old one"
        assert client.post("/access/users/newt/remove").status_code == 303
        assert "last_admin" in client.post("/access/users/ada/remove").text
        assert "last_admin" in client.post("/access/users/ada/role", data={"role": "viewer"}).text
        assert client.get("/").status_code == 200


def test_tokens_open_the_api_with_their_role_until_they_are_revoked(staffed: Served) -> None:
    with logged_in(staffed, "ada") as client:
        page = client.post("/access/tokens", data={"name": "ci", "role": "operator", "days": "1"}).text
        secret = re.search(r"vct_[\w-]{43}", page)
        assert secret is not None
        assert secret[0] not in client.get("/access").text
        key = re.search(r"/access/tokens/([0-9a-f]{16})/revoke", page)
        assert key is not None
        with httpx.Client(base_url=console_url(staffed), verify=False, trust_env=False) as program:
            program.headers["Authorization"] = f"Bearer {secret[0]}"
            made = program.post("/operator/v1/runs", json={"host": "by-token"})
            assert made.status_code == 201
            assert program.get("/operator/v1/runs").status_code == 200
            assert program.get("/access").status_code == 403
            assert client.post(f"/access/tokens/{key[1]}/revoke").status_code == 303
            assert program.get("/operator/v1/runs").status_code == 401
    entry = next(one for one in audit_of(staffed) if one["act"] == "create run" and one["author"] == "ci")
    assert (entry["via"], entry["subject"]) == ("token", f"run {made.json()['run_id']}")


def test_every_answer_ties_the_browser_down(staffed: Served) -> None:
    with logged_in(staffed, "ada") as client:
        for path in ("/", "/login", "/audit", "/nothing", "/static/console.css", "/operator/v1/runs"):
            headers = client.get(path).headers
            policy = headers["content-security-policy"]
            assert "unsafe" not in policy
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-correlation-id"]
        page = client.get("/").text + client.get("/login").text
        assert not re.search(r"<style|<script>|\sstyle=|\son\w+=|https?://", page.replace("http://www.w3.org", ""))


def test_large_bodies_are_refused(staffed: Served) -> None:
    with logged_in(staffed, "ada") as client:
        assert client.post("/login", content=b"x" * 70_000).status_code == 422
        assert client.post("/operator/v1/runs", content=b"x" * (5 * 2**20)).status_code == 413
        assert client.post("/fleet/act", content=b"run=1&" * 9000).status_code == 422


def test_guessing_is_slowed_for_the_guesser_alone(tmp_path: Path) -> None:
    served = Served(tmp_path / "d")
    add_user(served, "ada", "admin")
    with visitor(served) as client:
        guess = {"name": "ada", "password": "wrong wrong wrong"}
        assert [client.post("/login", data=guess).status_code for _ in range(5)] == [403] * 5
        answer = client.post("/login", data={"name": "ada", "password": PASSWORD})
        assert answer.status_code == 429
        assert 0 < int(answer.headers["retry-after"]) <= 300
    noted = [one["outcome"] for one in audit_of(served) if one["act"] == "log in"]
    assert noted == ["refused: wrong_password"] * 5
    assert served.end() == 0


def test_a_name_that_does_not_exist_takes_as_long(staffed: Served) -> None:
    def seconds(name: str) -> float:
        with visitor(staffed) as client:
            begun = time.monotonic()
            assert client.post("/login", data={"name": name, "password": "wrong wrong"}).status_code == 403
            return time.monotonic() - begun

    seconds("warm-up")
    assert seconds("nobody-here") > 0.25 * seconds("vera")


def test_a_login_leads_on_to_this_console_only(staffed: Served) -> None:
    for wanted in ("https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"):
        with visitor(staffed) as client:
            answer = client.post("/login", data={"name": "vera", "password": PASSWORD, "next": wanted})
            assert answer.headers["location"] == "/"
    with visitor(staffed) as client:
        answer = client.post("/login", data={"name": "vera", "password": PASSWORD, "next": "/runs/1?x=1"})
        assert answer.headers["location"] == "/runs/1?x=1"


def test_changing_the_password_ends_all_sessions(staffed: Served) -> None:
    add_user(staffed, "paul", "viewer")
    with logged_in(staffed, "paul") as client, logged_in(staffed, "paul") as other:
        form = {"old": "wrong wrong wrong", "password": "another password", "again": "another password"}
        assert client.post("/password", data=form).status_code == 403
        assert client.post("/password", data={**form, "old": PASSWORD}).status_code == 303
        assert (client.get("/").status_code, other.get("/").status_code) == (303, 303)


def test_the_command_line_keeps_people_tokens_and_the_audit_log(
    staffed: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (staffed.data / "lock").open() as empty:
        monkeypatch.setattr("sys.stdin", empty)
        assert "10 to 256" in typed(staffed, "user", "add", "kim", exit_code=1)
    names = {one["name"]: one["role"] for one in as_json(staffed, "user", "list")}
    assert names["ada"] == "admin"
    add_user(staffed, "kim", "viewer")
    assert as_json(staffed, "user", "role", "kim", "operator")["role"] == "operator"
    assert "removed" in typed(staffed, "user", "remove", "kim")
    secret = typed(staffed, "token", "create", "cron", "--role", "viewer").strip()
    assert secret.startswith("vct_")
    token = next(one for one in as_json(staffed, "token", "list") if one["name"] == "cron")
    assert "revoked" in typed(staffed, "token", "revoke", token["key"][:12])
    said = typed(staffed, "audit", "--limit", "500")
    assert "revoke token" in said
    assert secret not in said


def test_the_local_operator_acts_are_audited(staffed: Served) -> None:
    agent = staffed.create(host="locally")
    staffed.order(agent.run_id, "retry_stage")
    staffed.operator.post(f"/runs/{agent.run_id}/release", json={})
    about = [one for one in audit_of(staffed) if one["subject"] == f"run {agent.run_id}"]
    assert [(one["author"], one["act"], one["outcome"]) for one in reversed(about)] == [
        ("local", "create run", "done"),
        ("local", "retry_stage", "refused: not_holding"),
        ("local", "release", "done"),
    ]


def test_an_older_database_is_brought_up(tmp_path: Path) -> None:
    served = Served(tmp_path / "d")
    served.end()
    with sqlite3.connect(tmp_path / "d" / "orchestrator.db") as connection:
        for table in ("documents", "audit", "outbox", "marks"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    served = Served(tmp_path / "d")
    add_user(served, "ada", "admin")
    assert served.end() == 0
