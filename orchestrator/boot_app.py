"""Boot services over HTTP: GET /boot.ipxe?mac=… and GET /image/{file}, with ranges. For boot loaders: no login.

What whoever can reach this may learn and do stands in docs/hosts.md, under "Who listens on the boot network".
"""

from __future__ import annotations

import logging
import re

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from orchestrator.boot_script import SCRIPT_TYPE, ask_script, local_script
from orchestrator.boot_service import BootService
from orchestrator.host_record import checked_mac
from orchestrator.http_calls import answering_errors, http_exception
from orchestrator.steps import Refusal
from orchestrator.store import StoreFailed

log = logging.getLogger(__name__)
LONGEST_QUERY = 256
LONGEST_RANGE = 128
NETWORK_PLACE = re.compile(r"[A-Za-z0-9._-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")


def boot_routes(boot: BootService) -> list[Route]:
    """The two endpoints."""

    async def script(request: Request) -> Response:
        return Response(await _script(boot, request), media_type=SCRIPT_TYPE, headers={"Cache-Control": "no-store"})

    async def image(request: Request) -> Response:
        path = boot.image.file(request.path_params["name"])
        if path is None:
            raise Refusal(404, "no_such_file", "The image has no such file")
        if len(request.headers.get("Range", "")) > LONGEST_RANGE:
            raise Refusal(422, "malformed", "The range is too long")
        return FileResponse(path, media_type="application/octet-stream")

    return [
        Route("/boot.ipxe", answering_errors(script), methods=["GET"]),
        Route("/image/{name}", answering_errors(image), methods=["GET"]),
    ]


def boot_app(boot: BootService) -> Starlette:
    """The application of the plain-HTTP listener: boot services and nothing else."""

    async def front(_request: Request) -> Response:
        return PlainTextResponse("vetting-orchestrator: boot services at /boot.ipxe?mac=ADDRESS\n")

    routes = [*boot_routes(boot), Route("/", front, methods=["GET"])]
    return Starlette(routes=routes, exception_handlers={HTTPException: http_exception})


async def _script(boot: BootService, request: Request) -> str:
    """Always a script: one that ends in an error page would leave a machine in its boot loader."""
    if len(request.url.query) > LONGEST_QUERY:
        return local_script("The question was too long")
    given = request.query_params.get("mac", "")
    base = _base(request)
    if not given:
        return ask_script(base)
    try:
        mac = checked_mac(given)
    except Refusal:
        return local_script("The address in the question is none")
    try:
        ip = request.client.host if request.client else ""
        return await boot.script(mac, ip, base)
    except (OSError, ValueError, StoreFailed) as problem:
        log.warning("no boot script for %s: %s", mac, problem)
        return local_script("The server has trouble and no script")


def _base(request: Request) -> str:
    """This server as the caller named it: it may stand behind another address. Raises Refusal 422."""
    place = request.headers.get("Host", "")
    if not NETWORK_PLACE.fullmatch(place):
        raise Refusal(422, "malformed", "The Host header names no host")
    return f"{request.url.scheme}://{place}"
