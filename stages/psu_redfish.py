"""Samples the power supplies through Redfish beside the local sensors, when the operator gives an address.

The password is read from a file when it is needed, and stands in no argument, log line or evidence file. The last
answers lie in the evidence as `redfish.json`, an object of texts by path.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import Protocol

from probes import redfish_power
from probes.psus import PsuReading
from probes.redfish import RedfishError, Service
from stages import conclusion
from stages.psu_judge import RedfishReadings
from stages.stage import StageContext

FILE_NAME = "redfish.json"
PASSWORD_MAX = 256


class Asked(Protocol):
    """The options that concern Redfish."""

    @property
    def redfish_url(self) -> str: ...
    @property
    def redfish_user(self) -> str: ...
    @property
    def redfish_password_file(self) -> str: ...
    @property
    def redfish_fingerprint(self) -> str: ...
    @property
    def redfish_insecure(self) -> bool: ...


@dataclass(slots=True)
class Watch:
    """What was read so far. Without a service it was asked for wrongly, which is a failure like any other."""

    service: Service | None
    samples: list[PsuReading] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    async def take(self, context: StageContext) -> None:
        """One more sample, or one more failure."""
        if self.service is None:
            return
        try:
            sample = await redfish_power.sample(self.service)
        except RedfishError as problem:
            self.failures.append(str(problem))
            return
        self.samples.append(sample.reading)
        for psu in sample.reading.supplies:
            if psu.watts is not None:
                context.sample("power", f"psu:{psu.name}", psu.watts, "W")
        try:
            conclusion.write(context.evidence, FILE_NAME, sample.answers)
        except OSError as problem:
            context.warn(f"{FILE_NAME} could not be written: {problem}")

    def readings(self) -> RedfishReadings:
        return RedfishReadings(tuple(self.samples), tuple(self.failures))


def watched(context: StageContext, options: Asked) -> Watch | None:
    """None when no address is given."""
    if not options.redfish_url:
        return None
    try:
        service = Service(
            url=options.redfish_url,
            user=options.redfish_user,
            password=_password(options.redfish_password_file),
            fingerprint=options.redfish_fingerprint,
            insecure=options.redfish_insecure,
        )
        service.address()
    except (OSError, ValueError, RedfishError) as problem:
        context.warn(f"Redfish is not asked: {problem}")
        return Watch(None, failures=[str(problem)])
    return Watch(service)


def _password(path: str) -> str:
    """The first line of the file. Raises OSError and ValueError, without a word of what is in it."""
    if not path:
        return ""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{path} is no regular file")
        line = file.read(PASSWORD_MAX + 1).partition(b"\n")[0].rstrip(b"\r")
    if not line or len(line) > PASSWORD_MAX:
        raise ValueError(f"{path} holds no password of at most {PASSWORD_MAX} bytes in its first line")
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise ValueError(f"the password in {path} is no UTF-8 text") from None
