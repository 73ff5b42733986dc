"""Redfish against a real TLS service that serves recorded resources, and against services that lie."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from probes import redfish_power
from probes.printable import printable
from probes.psus import Psu, Redundancy
from probes.redfish import RedfishError, Service
from tests.support.certificates import make
from tests.support.redfish_service import (
    BAY1,
    BAY2,
    PASSWORD,
    POWER,
    SUBSYSTEM,
    Answer,
    RedfishService,
    drips,
    floods,
    recorded,
    says,
    two_sound_supplies,
)


async def test_the_newer_resource_goes_before_the_older(tmp_path: Path) -> None:
    with RedfishService(recorded("dmtf-rackmount1")).served(tmp_path) as service:
        sample = await redfish_power.sample(service.asked())
    bay1, bay2 = sample.reading.supplies
    assert (bay1.name, bay1.serial, bay1.present, bay1.watts, bay1.amps) == (
        "Power Supply Bay 1", "3488247", True, 937.4, 5.19,
    )  # fmt: skip
    assert (bay1.failed, bay1.troubled, bay1.input_lost) == (False, True, False)
    assert (bay2.name, bay2.present) == ("Power Supply Bay 2", False)
    assert [row.full for row in sample.reading.redundancy] == [False]
    assert POWER not in [path for path, _ in service.seen]
    assert set(sample.answers) == {path for path, _ in service.seen}


async def test_the_older_resource_alone(tmp_path: Path) -> None:
    tree = recorded("dmtf-rackmount1")
    del tree["/redfish/v1/Chassis/1U"]["PowerSubsystem"]
    with RedfishService(tree).served(tmp_path) as service:
        (psu,) = (await redfish_power.sample(service.asked())).reading.supplies
    assert (psu.name, psu.serial, psu.watts, psu.troubled) == ("Power Supply Bay", "1Z0000001", 325.0, True)


def supply(**resource: Any) -> Psu:
    return redfish_power.of_supply({"Name": "PS1", **resource}, {})


@pytest.mark.parametrize(
    ("resource", "wanted"),
    [
        ({"Status": {"State": "Enabled", "Health": "OK"}}, (True, False, False, False)),
        ({"Status": {"State": "Enabled", "Health": "Critical"}}, (True, True, False, False)),
        ({"Status": {"State": "Enabled", "Health": "Warning"}}, (True, False, False, True)),
        ({"Status": {"State": "Absent"}}, (False, False, False, False)),
        ({"Status": {"State": "StandbySpare", "Health": "OK"}}, (True, False, False, False)),
        ({"Status": {"State": "StandbyOffline", "Health": "OK"}}, (True, False, False, False)),
        ({"Status": {"State": "UnavailableOffline", "Health": "OK"}}, (True, False, False, True)),
        ({"Status": {"State": "Enabled", "Health": "OK"}, "LineInputStatus": "Normal"}, (True, False, False, False)),
        ({"Status": {"State": "Enabled"}, "LineInputStatus": "LossOfInput"}, (True, False, True, False)),
        ({"Status": {"State": "Enabled"}, "LineInputStatus": "OutOfRange"}, (True, False, True, False)),
        # An unplugged supply is no broken one, whatever its health says then.
        ({"Status": {"State": "Enabled", "Health": "Critical"}, "LineInputVoltage": 0}, (True, False, True, False)),
        ({"Status": {"State": "Enabled", "Health": "OK"}, "LineInputVoltage": None}, (True, False, False, False)),
        ({}, (None, False, False, False)),
        ({"Status": None}, (None, False, False, False)),
    ],
)
def test_states(resource: dict[str, Any], wanted: tuple[bool | None, bool, bool, bool]) -> None:
    psu = supply(**resource)
    assert (psu.present, psu.failed, psu.input_lost, psu.troubled) == wanted


@pytest.mark.parametrize(
    ("row", "full"),
    [
        ({"Status": {"State": "Enabled", "Health": "OK"}}, [True]),
        ({"Status": {"State": "Enabled", "Health": "Critical"}}, [False]),
        ({"Status": {"State": "UnavailableOffline", "Health": "OK"}}, [False]),
        ({"Status": {"State": "Disabled"}}, []),
        ({"Status": {}}, []),
        ({"Status": {"State": "Enabled", "Health": "Warning"}, "RedundancySet": [{}]}, []),
        ("garbage", []),
    ],
)
def test_redundancy(row: Any, full: list[bool]) -> None:
    reading = redfish_power.of_power({"Redundancy": [row], "PowerSupplies": []})
    assert [one.full for one in reading.redundancy] == full
    assert all(isinstance(one, Redundancy) for one in reading.redundancy)


def test_supplies_of_one_name_are_told_apart() -> None:
    reading = redfish_power.of_power({"PowerSupplies": [{"Name": "HpeServerPowerSupply"}] * 2})
    assert [psu.name for psu in reading.supplies] == ["HpeServerPowerSupply 1", "HpeServerPowerSupply 2"]


def test_hostile_words_become_harmless() -> None:
    psu = supply(Name="PS\x1b[2J1\n\u202e", Status={"State": "Enabled, Failure detected", "Health": ["OK"]})
    assert psu.name == "PS [2J1"
    assert not psu.failed or "Failure" in psu.states
    assert printable("a" * 1000) == "a" * 80
    assert supply(PowerOutputWatts=10**400).watts is None
    assert supply(PowerOutputWatts=True).watts is None


BROKEN: dict[str, Answer] = {
    "no JSON": says(b"<html>login</html>"),
    "half of it": says(b'{"PowerSupplies": [{"Na', length=4096),
    "a list": says(b"[]"),
    "NaN": says(b'{"PowerSupplies": [{"PowerOutputWatts": NaN}]}'),
    "too deep": says(b'{"a":' * 100_000),
    "nothing": says(b""),
    "an error": says(b"{}", status=503),
    "a redirect": says(b"{}", status=302, Location="http://192.0.2.1/redfish/v1/"),
    "no HTTP": lambda request: request.wfile.write(b"\x00\x15\x03 garbage\r\n\r\n") and None,  # type: ignore[func-returns-value]
    "without end": floods,
    "huge headers": says(b"{}", X_Long="a" * 100_000),
}


async def refused(service: Service) -> str:
    """What the error says."""
    with pytest.raises(RedfishError) as caught:
        await redfish_power.sample(service, limit_s=10)
    return str(caught.value)


@pytest.mark.parametrize("kind", BROKEN)
async def test_a_broken_answer_is_an_error_and_keeps_the_secret(kind: str, tmp_path: Path) -> None:
    with RedfishService(two_sound_supplies(), {SUBSYSTEM: BROKEN[kind]}).served(tmp_path) as service:
        caught = await refused(service.asked())
    assert PASSWORD not in caught
    assert caught.startswith(SUBSYSTEM)


@pytest.mark.parametrize("path", ["/redfish/v1/", BAY1])
async def test_a_service_that_drips_is_left_in_time(path: str, tmp_path: Path) -> None:
    with RedfishService(two_sound_supplies(), {path: drips(0.05)}).served(tmp_path) as service:
        started = time.monotonic()
        with pytest.raises(RedfishError):
            await redfish_power.sample(service.asked(), limit_s=1.0)
        assert time.monotonic() - started < 2.5


async def test_a_service_that_never_shakes_hands() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        service = Service(f"https://127.0.0.1:{silent.getsockname()[1]}", insecure=True)
        started = time.monotonic()
        with pytest.raises(RedfishError):
            await redfish_power.sample(service, limit_s=0.5)
        assert time.monotonic() - started < 2.0


LINKS = [
    "https://192.0.2.1/redfish/v1/Chassis/1U",
    "//192.0.2.1/redfish/v1/",
    "/redfish/v1/../../etc/passwd",
    "/redfish/v1/Chassis/1U HTTP/1.1\r\nX: y",
    "/other",
]


@pytest.mark.parametrize("link", LINKS)
async def test_links_to_elsewhere_are_not_followed(link: str, tmp_path: Path) -> None:
    tree = two_sound_supplies()
    tree["/redfish/v1/Chassis"]["Members"] = [{"@odata.id": link}]
    with RedfishService(tree).served(tmp_path) as service:
        assert "is no resource of this service" in await refused(service.asked())
    assert [path for path, _ in service.seen] == ["/redfish/v1/", "/redfish/v1/Chassis"]


async def test_a_tree_without_end_ends(tmp_path: Path) -> None:
    tree = two_sound_supplies()
    tree["/redfish/v1/Chassis"]["Members"] = [{"@odata.id": "/redfish/v1/Chassis/1U"}] * 30
    with RedfishService(tree).served(tmp_path) as service:
        with pytest.raises(RedfishError, match="more than"):
            await redfish_power.sample(service.asked())
        tree["/redfish/v1/Chassis"]["Members"] *= 10
        with pytest.raises(RedfishError, match="300 members"):
            await redfish_power.sample(service.asked())


async def test_another_certificate_gets_nothing(tmp_path: Path) -> None:
    with RedfishService(two_sound_supplies()).served(tmp_path) as service:
        with pytest.raises(RedfishError, match="another certificate"):
            await redfish_power.sample(service.asked(fingerprint=make().fingerprint))
        with pytest.raises(RedfishError, match="CERTIFICATE_VERIFY_FAILED"):
            await redfish_power.sample(service.asked(fingerprint=""))
        assert service.seen == []
        shown = ":".join(part.upper() for part in (service.certificate.fingerprint[i : i + 2] for i in range(0, 64, 2)))
        await redfish_power.sample(service.asked(fingerprint=shown))
        await redfish_power.sample(service.asked(fingerprint="", insecure=True))


async def test_a_wrong_password_is_said_without_it(tmp_path: Path) -> None:
    with RedfishService(two_sound_supplies()).served(tmp_path) as service:
        caught = await refused(service.asked(password="wrong-one"))
    assert "status 401" in caught
    assert "wrong-one" not in caught


async def test_a_password_that_comes_back_is_blotted_out(tmp_path: Path) -> None:
    tree = two_sound_supplies()
    tree[BAY2]["Model"] = f"echo {PASSWORD}"
    with RedfishService(tree).served(tmp_path) as service:
        sample = await redfish_power.sample(service.asked())
    assert PASSWORD not in json.dumps(sample.answers)
    assert "[secret]" in sample.answers[BAY2]
    assert PASSWORD not in repr(service.asked())


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://bmc",
        "bmc",
        "https://",
        "https://user:pw@bmc",
        "https://bmc/redfish/v2",
        "http://bmc",
        "https://bmc:x",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(RedfishError) as caught:
        Service(url).address()
    assert "pw" not in str(caught.value)


async def test_nobody_there() -> None:
    with pytest.raises(RedfishError, match="refused"):
        await redfish_power.sample(Service("https://127.0.0.1:1", insecure=True), limit_s=3)


async def test_a_cancel_shuts_the_socket(tmp_path: Path) -> None:
    with RedfishService(two_sound_supplies(), {SUBSYSTEM: drips(0.05)}).served(tmp_path) as service:
        task = asyncio.create_task(redfish_power.sample(service.asked(), limit_s=60))
        while SUBSYSTEM not in [path for path, _ in service.seen]:  # noqa: ASYNC110  # its threads have no event
            await asyncio.sleep(0.02)
        task.cancel()
        started = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - started < 1.0
