"""Entries for what peers and operators hand in: wire messages at both ends, parameters, keys, evidence."""

from __future__ import annotations

import argparse
import io
import json
import re
import tarfile
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from orchestrator import results
from orchestrator.evidence import EvidenceFolder
from orchestrator.http_calls import decoded
from orchestrator.operator_messages import DirectiveRequest
from orchestrator.run_creation import RunRequest
from orchestrator.spec import Spec, differences
from orchestrator.steps import Refusal
from orchestrator.store import StoreFailed
from probes.json_paths import dig
from stages import STAGES, network
from stages.options import BadParameter, parse_options
from tests.fuzz.mutate import Mutant, Recording
from tests.fuzz.parser import READ, Parser
from tests.fuzz.subjects_disk import document
from vetting_agent import client, heartbeat, hold_key, key_file, params, wire
from vetting_agent.claiming import token_of
from vetting_agent.errors import BadBootParameter, BadHoldKey, FinalRefusal, Trouble

WIRE = Path(__file__).parents[1] / "fixtures" / "wire"
KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl run 17\n"
RSA = b"ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQ" + b"C7" * 160 + b" somebody@somewhere\n"


def _wire(*words: str) -> tuple[Recording, ...]:
    return tuple(
        Recording(path.stem, path.read_bytes())
        for path in sorted(WIRE.glob("*.json"))
        if any(path.stem.startswith(word) for word in words)
    )


# --- the agent's end -------------------------------------------------------------------------------------------------

REPLIES: dict[str, type[wire.Message]] = {
    "hello": wire.HelloReply,
    "claim": wire.Claim,
    "heartbeat": wire.HeartbeatReply,
    "sensor": wire.Empty,
    "log": wire.Empty,
    "result": wire.ResultReply,
    "hold": wire.HoldReply,
    "iperf_slot": wire.IperfSlotReply,
    "evidence": wire.Empty,
}


def _reply(mutant: Mutant) -> str:
    verb = mutant.recording.name.partition("-")[0]
    reply = client._decode(verb, mutant.data, REPLIES[verb])
    if isinstance(reply, wire.Claim):
        _claim(reply, mutant)
    elif isinstance(reply, wire.HeartbeatReply):
        directive = heartbeat._directive(reply)
        assert directive.cmd == reply.cmd
    elif isinstance(reply, wire.HoldReply):
        hold_key.parse_key(reply.authorized_key)
        _installed_line(reply)
    return READ


def _claim(claim: wire.Claim, mutant: Mutant) -> None:
    if (token := token_of(claim)) is not None:
        assert re.fullmatch(r"[!-~]+", token.reveal()), "a token that no header can carry"
    assert claim.is_destructive is (dig(document(mutant), "non_destructive") is False), "writes without being told to"
    options = claim.parameters if isinstance(claim.parameters, dict) else {}
    for stage in STAGES:
        parse_options(stage.options, stage.name, options.get(stage.name))


def _installed_line(reply: wire.HoldReply) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    line = hold_key.parse_key(reply.authorized_key).line(hold_key.parse_expiry(reply.expires_at, now))
    assert "\n" not in line


def _error(mutant: Mutant) -> str:
    """The body of a 401: final in the orchestrator's own words, trouble in any other."""
    unproven: Any = SimpleNamespace(_unproven_since=None)
    client.Client._refused(unproven, "claim", 401, mutant.data)
    return READ


# --- the orchestrator's end ------------------------------------------------------------------------------------------

REQUESTS: dict[str, type[wire.Message]] = {
    "hello": wire.HelloRequest,
    "claim": wire.ClaimRequest,
    "heartbeat": wire.HeartbeatRequest,
    "sensor": wire.SensorRequest,
    "log": wire.LogRequest,
    "result": wire.ResultRequest,
    "hold": wire.HoldRequest,
    "iperf_slot": wire.IperfSlotRequest,
}


def _request(mutant: Mutant) -> str:
    verb = mutant.recording.name.partition("-")[0]
    request = decoded(REQUESTS[verb], mutant.data)
    msgspec.json.encode(request)
    return ("pass" if results.judged_passed(request) else "fail") if isinstance(request, wire.ResultRequest) else READ


def _request_facts(mutant: Mutant) -> bool:
    """A result passes only with the word, the verdict, and no finding that decides: in the document itself."""
    told = document(mutant)
    findings = dig(told, "summary", "findings")
    return (
        dig(told, "passed") is True
        and dig(told, "summary", "verdict") in {"pass", "not_applicable"}
        and isinstance(findings, list)
        and not any(dig(one, "severity") == "error" for one in findings)
    )


OPERATOR: dict[str, Any] = {
    "directive": {"cmd": "retry_stage", "stage": "Storage", "wipe": True, "serials": ["S4EVNX0R123456"]},
    "run": {"mac": "52:54:00:12:34:56"},
    "spec": {
        "cpu": {"model": "Xeon", "sockets": 2},
        "memory_gib": 512,
        "disks": [{"count": 8, "model": "MZQL", "size_gb": 3840}],
        "nics": [{"count": 2, "speed_mbps": 25000}],
    },
}
INVENTORY = WIRE / "result-request-inventory.json"


def _operator_recordings() -> tuple[Recording, ...]:
    return tuple(Recording(name, json.dumps(body).encode()) for name, body in OPERATOR.items())


def _operator(mutant: Mutant) -> str:
    kinds: dict[str, Any] = {"directive": DirectiveRequest, "run": RunRequest, "spec": Spec}
    wanted = decoded(kinds[mutant.recording.name], mutant.data)
    if isinstance(wanted, Spec):
        differences(wanted, json.loads(INVENTORY.read_bytes()).get("inventory"))
    return READ


SPEC = msgspec.convert({"cpu": {"sockets": 2}, "memory_gib": 512, "disks": [{"count": 1, "size_gb": 960}]}, Spec)


def _against_spec(mutant: Mutant) -> str:
    """An inventory as any agent may send it, against the operator's spec."""
    request = decoded(wire.ResultRequest, mutant.data)
    return "fail" if differences(SPEC, request.inventory) else READ


# --- evidence --------------------------------------------------------------------------------------------------------


def _archive() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name in ("02-SMART/outcome.json", "02-SMART/tools/001-smartctl.out"):
            entry = tarfile.TarInfo(name)
            entry.size = 4
            tar.addfile(entry, io.BytesIO(b"text"))
    return out.getvalue()


def _evidence(mutant: Mutant) -> str:
    """Taken only with its own digest: an archive that was broken on the way is refused, and none is ever unpacked."""
    import hashlib

    announced = hashlib.sha256(mutant.recording.data).hexdigest()
    with tempfile.TemporaryDirectory(prefix="vetting-fuzz-") as folder:
        EvidenceFolder(Path(folder))._keep(1, announced, mutant.data)
    assert mutant.data == mutant.recording.data, "a broken archive was taken for a whole one"
    return READ


# --- parameters and keys ---------------------------------------------------------------------------------------------

CMDLINE = (
    b"BOOT_IMAGE=vmlinuz quiet vetting.orchestrator=https://10.0.0.1:8443 vetting.run_id=17 vetting.token=abcDEF123456 "
    b"vetting.tls_fpr=" + b"ab" * 32 + b' vetting.mac="52:54:00:12:34:56" root=/dev/ram0\n'
)
ENVIRONMENT = (
    b'# what this boot is for\nexport VETTING_ORCHESTRATOR="http://127.0.0.1:8080/"\nVETTING_RUN_ID=17\n'
    b"VETTING_TOKEN='abcDEF123456'\nVETTING_MAC=01-52-54-00-12-34-56\n"
)


def _prefix() -> str:
    return params.PREFIX


def _params_recordings() -> tuple[Recording, ...]:
    cmdline = CMDLINE.replace(b"vetting.", _prefix().encode())
    return (Recording("cmdline", cmdline), Recording("env-file", ENVIRONMENT))


def _params(mutant: Mutant) -> str:
    flags = dict.fromkeys(("orchestrator", "run_id", "tls_fpr", "mac", "token_file", "env_file", "cmdline"))
    with tempfile.NamedTemporaryFile(prefix="vetting-fuzz-") as file:
        file.write(mutant.data)
        file.flush()
        path = Path(file.name)
        if mutant.recording.name == "env-file":
            flags["env_file"] = path  # type: ignore[assignment]
            path = Path(file.name + "-none")
        said = params.read_params(argparse.Namespace(**flags), {}, path)
    assert re.fullmatch(r"https?://[!-~]+", said.orchestrator), said.orchestrator
    assert 0 < said.run_id < 2**63
    assert "abcDEF" not in repr(said), "the token shows itself"
    return READ


def _key_recordings() -> tuple[Recording, ...]:
    return (Recording("ed25519", KEY), Recording("rsa", RSA))


def _key(mutant: Mutant) -> str:
    """The line that is installed is one key of the type that it says, without options: nothing else ever gets there."""
    key = hold_key.parse_key(mutant.text)
    line = key.line(None)
    assert line.isprintable(), line
    assert line.split(" ")[0] in hold_key._BODIES
    assert hold_key.parse_key(line) == key
    return READ


def _expiry_recordings() -> tuple[Recording, ...]:
    return (Recording("utc", b"2026-11-22T05:00:00Z"), Recording("offset", b"9999-12-31T23:59:59-12:00"))


def _expiry(mutant: Mutant) -> str:
    now = datetime(2026, 11, 21, tzinfo=UTC)
    moment = hold_key.parse_expiry(mutant.text, now)
    line = hold_key.parse_key(KEY.decode()).line(moment)
    assert moment is not None
    assert re.match(r'expiry-time="\d{14}Z" ssh-', line), line
    return READ


AUTHORIZED = b'# kept by the operator\nssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ other\n\nfrom="10.0.0.0/8" ' + KEY


def _authorized(mutant: Mutant) -> str:
    """Our line goes in and comes out, and every other byte of the file is as it was before."""
    key = hold_key.parse_key(KEY.decode())
    with tempfile.TemporaryDirectory(prefix="vetting-fuzz-") as folder:
        place = key_file.KeyFile(Path(folder) / "ssh" / "authorized_keys", Path(folder))
        place.path.parent.mkdir(mode=0o700)
        place.path.write_bytes(mutant.data)
        if place.install(key, "ssh-ed25519-new " + key.line(None), 1.0):
            place.remove()
            place.forget()
        assert place.path.read_bytes() == mutant.data, "somebody else's line was changed"
    return READ


def _parameters_recordings() -> tuple[Recording, ...]:
    told = {stage.name: msgspec.to_builtins(stage.options()) for stage in STAGES}
    return (Recording("defaults", json.dumps(told).encode()),)


def _parameters(mutant: Mutant) -> str:
    told = msgspec.json.decode(mutant.data)
    if isinstance(told, dict):
        for stage in STAGES:
            options = parse_options(stage.options, stage.name, told.get(stage.name))
            stage.planned_s(options)
            if isinstance(options, network.Options):
                options.neighbors()
    return READ


ENTRIES = (
    Parser(
        "wire-replies",
        ("vetting_agent/wire.py", "vetting_agent/client.py", "vetting_agent/heartbeat.py", "vetting_agent/claiming.py"),
        lambda: tuple(one for one in _wire(*REPLIES) if "-reply" in one.name),
        _reply,
        (Trouble, BadParameter, BadHoldKey),
        is_json=True,
        share=5,
    ),
    Parser(
        "wire-errors",
        ("vetting_agent/client.py",),
        lambda: _wire("error"),
        _error,
        (FinalRefusal, Trouble),
        is_json=True,
    ),
    Parser(
        "wire-requests",
        ("orchestrator/http_calls.py", "orchestrator/results.py", "orchestrator/agent_app.py"),
        lambda: tuple(one for one in _wire(*REQUESTS) if "-request" in one.name),
        _request,
        (Refusal,),
        _request_facts,
        is_json=True,
        share=5,
    ),
    Parser(
        "operator-requests",
        ("orchestrator/operator_app.py", "orchestrator/spec.py"),
        _operator_recordings,
        _operator,
        (Refusal,),
        is_json=True,
        share=2,
    ),
    Parser(
        "inventory-against-spec",
        ("orchestrator/spec.py",),
        lambda: _wire("result-request-inventory"),
        _against_spec,
        (Refusal,),
        is_json=True,
        share=2,
    ),
    Parser(
        "evidence",
        ("orchestrator/evidence.py",),
        lambda: (Recording("archive", _archive()),),
        _evidence,
        (Refusal, StoreFailed),
    ),
    Parser("boot-parameters", ("vetting_agent/params.py",), _params_recordings, _params, (BadBootParameter,), share=3),
    Parser("hold-key", ("vetting_agent/hold_key.py",), _key_recordings, _key, (BadHoldKey,), share=3),
    Parser("hold-expiry", ("vetting_agent/hold_key.py",), _expiry_recordings, _expiry, (BadHoldKey,)),
    Parser(
        "authorized-keys",
        ("vetting_agent/key_file.py",),
        lambda: (Recording("three", AUTHORIZED), Recording("none", b"")),
        _authorized,
        (BadHoldKey,),
    ),
    Parser(
        "stage-parameters",
        ("stages/options.py", "stages/network.py"),
        _parameters_recordings,
        _parameters,
        (BadParameter, msgspec.MsgspecError, UnicodeDecodeError, RecursionError),
        is_json=True,
        share=2,
    ),
)  # fmt: skip
