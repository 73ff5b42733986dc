"""The operator's API of hosts, hardware profiles and the queue of unknown hosts.

GET, POST /operator/v1/hosts               GET, PATCH, DELETE …/hosts/{name}      POST …/hosts/import?dry_run=true
GET, PUT  …/unknown-hosts                  GET …/boot-queue                       POST …/boot-queue/{mac}/approve|reject
DELETE    …/boot-queue/{mac}               GET …/profiles                         POST …/profiles/check
GET, POST, DELETE …/profiles/{name}        GET …/profiles/{name}/versions         POST …/profiles/{name}/learn
GET …/profiles/{name}/diff?old=&new=       GET …/profiles/{name}/diff?host=&version=
GET …/profiles/{name}/baselines
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from orchestrator.hardware_profile import BadProfile, checked_profile
from orchestrator.host_csv import MOST_BYTES
from orchestrator.host_messages import (
    Approved,
    ApproveRequest,
    CheckReport,
    HostEdit,
    HostRequest,
    LearnRequest,
    ProblemView,
    ProfileText,
)
from orchestrator.host_record import UnknownHosts
from orchestrator.host_service import HostService
from orchestrator.http_calls import Endpoint, body_of, decoded, json_reply, number_of, who_asks
from orchestrator.peers import baselines_of
from orchestrator.steps import Refusal

BODY_BYTES = 2**20
HIGHEST_VERSION = 10**8 - 1


@dataclass(frozen=True, slots=True)
class HostApi:
    """The endpoints over the service that the pages use too."""

    hosts: HostService

    def endpoints(self, prefix: str) -> list[tuple[str, str, Endpoint]]:
        """(method, path, endpoint) of each."""
        host, profile, waiting = "/hosts/{name}", "/profiles/{name}", "/boot-queue/{mac}"
        table: list[tuple[str, str, Endpoint]] = [
            ("GET", "/hosts", self.list_hosts),
            ("POST", "/hosts", self.add),
            ("POST", "/hosts/import", self.import_csv),
            ("GET", host, self.show),
            ("PATCH", host, self.edit),
            ("DELETE", host, self.remove),
            ("GET", "/unknown-hosts", self.policy),
            ("PUT", "/unknown-hosts", self.set_policy),
            ("GET", "/boot-queue", self.queue),
            ("POST", f"{waiting}/approve", self.approve),
            ("POST", f"{waiting}/reject", self.reject),
            ("DELETE", waiting, self.forget),
            ("GET", "/profiles", self.profiles),
            ("POST", "/profiles/check", self.check),
            ("GET", profile, self.profile),
            ("POST", profile, self.save),
            ("DELETE", profile, self.remove_profile),
            ("GET", f"{profile}/versions", self.versions),
            ("POST", f"{profile}/learn", self.learn),
            ("GET", f"{profile}/diff", self.diff),
            ("GET", f"{profile}/baselines", self.baselines),
        ]
        return [(method, prefix + path, endpoint) for method, path, endpoint in table]

    async def list_hosts(self, _request: Request) -> Response:
        return json_reply(await self.hosts.hosts())

    async def add(self, request: Request) -> Response:
        wanted = decoded(HostRequest, await body_of(request, BODY_BYTES))
        return json_reply(await self.hosts.add(wanted, who_asks(request)), 201)

    async def import_csv(self, request: Request) -> Response:
        dry_run = request.query_params.get("dry_run", "") in {"1", "true", "yes"}
        content = await body_of(request, MOST_BYTES)
        report = await self.hosts.import_csv(content, who_asks(request), dry_run=dry_run)
        return json_reply(report, 422 if report.errors else 200)

    async def show(self, request: Request) -> Response:
        return json_reply(await self.hosts.host(request.path_params["name"]))

    async def edit(self, request: Request) -> Response:
        wanted = decoded(HostEdit, await body_of(request, BODY_BYTES))
        return json_reply(await self.hosts.edit(request.path_params["name"], wanted, who_asks(request)))

    async def remove(self, request: Request) -> Response:
        await self.hosts.remove(request.path_params["name"], who_asks(request))
        return json_reply({})

    async def policy(self, _request: Request) -> Response:
        return json_reply(_whole(await self.hosts.unknown_hosts()))

    async def set_policy(self, request: Request) -> Response:
        wanted = decoded(UnknownHosts, await body_of(request, BODY_BYTES))
        return json_reply(_whole(await self.hosts.set_unknown_hosts(wanted, who_asks(request))))

    async def queue(self, _request: Request) -> Response:
        return json_reply(await self.hosts.queue())

    async def approve(self, request: Request) -> Response:
        wanted = decoded(ApproveRequest, await body_of(request, BODY_BYTES))
        host, run = await self.hosts.approve(request.path_params["mac"], wanted, who_asks(request))
        return json_reply(Approved(host=host, run_id=run.run_id if run else None))

    async def reject(self, request: Request) -> Response:
        return json_reply(await self.hosts.reject(request.path_params["mac"], who_asks(request)))

    async def forget(self, request: Request) -> Response:
        await self.hosts.forget(request.path_params["mac"], who_asks(request))
        return json_reply({})

    async def profiles(self, _request: Request) -> Response:
        return json_reply(await self.hosts.profiles())

    async def check(self, request: Request) -> Response:
        wanted = decoded(ProfileText, await body_of(request, BODY_BYTES))
        return json_reply(checked_report(wanted.text))

    async def profile(self, request: Request) -> Response:
        number = _number(request, "version")
        return json_reply(await self.hosts.version(request.path_params["name"], number))

    async def save(self, request: Request) -> Response:
        wanted, name = decoded(ProfileText, await body_of(request, BODY_BYTES)), request.path_params["name"]
        try:
            version = await self.hosts.save(name, wanted.text, who_asks(request), note=wanted.note, base=wanted.base)
        except BadProfile as problem:
            raise Refusal(422, "bad_profile", "\n".join(map(str, problem.problems))) from None
        return json_reply(version, 201)

    async def remove_profile(self, request: Request) -> Response:
        await self.hosts.remove_profile(request.path_params["name"], who_asks(request))
        return json_reply({})

    async def versions(self, request: Request) -> Response:
        return json_reply(await self.hosts.versions(request.path_params["name"]))

    async def learn(self, request: Request) -> Response:
        wanted, name = decoded(LearnRequest, await body_of(request, BODY_BYTES)), request.path_params["name"]
        return json_reply(await self.hosts.learn(name, wanted.run_id, who_asks(request), note=wanted.note), 201)

    async def diff(self, request: Request) -> Response:
        name = request.path_params["name"]
        if host := request.query_params.get("host"):
            return json_reply(await self.hosts.compare_host(name, host, _number(request, "version")))
        return json_reply(await self.hosts.compare(name, _number(request, "old"), _number(request, "new")))

    async def baselines(self, request: Request) -> Response:
        name = request.path_params["name"]
        await self.hosts.version(name)
        return json_reply(await baselines_of(self.hosts.store, name))


def checked_report(text: str) -> CheckReport:
    """What is wrong with a profile's text, for an editor to show beside the lines."""
    try:
        checked_profile(text)
    except BadProfile as bad:
        problems = [ProblemView(line=one.line, path=one.path, message=one.message) for one in bad.problems]
        return CheckReport(problems=problems)
    return CheckReport(problems=[])


def _whole(policy: UnknownHosts) -> dict[str, str | None]:
    return {"policy": policy.policy, "profile": policy.profile}


def _number(request: Request, name: str) -> int | None:
    """A version's number in the query; None when it is not given."""
    return number_of(request, name, 0, HIGHEST_VERSION) if request.query_params.get(name) else None
