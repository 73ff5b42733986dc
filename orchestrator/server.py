"""The running server: sockets, the two applications, the iperf3 server and the watch for silent hosts, as one block.

The agent API listens on TCP with TLS, the operator API on a unix socket, the operators' console on a TCP port of its
own; all run in the same loop. The console is apart from the agents' API because those who test unknown hosts keep
their network apart from the one where people work: each can be bound and firewalled by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import uvicorn
from starlette.types import ASGIApp

from orchestrator.agent_app import agent_app
from orchestrator.agent_service import AgentService
from orchestrator.boot_app import boot_app
from orchestrator.boot_service import BootService
from orchestrator.boot_tokens import BootTokens
from orchestrator.evidence import EvidenceFolder
from orchestrator.host_service import HostService
from orchestrator.images import ImageFolder, NoImage
from orchestrator.iperf import IperfServers
from orchestrator.operator_app import PREFIX, OperatorApi
from orchestrator.operator_messages import ServerInfo
from orchestrator.sqlite_store import SqliteStore
from orchestrator.terminal_access import local_operator
from orchestrator.terminal_app import agent_routes, operator_routes
from orchestrator.terminal_session import TerminalLimits
from orchestrator.terminals import Terminals
from orchestrator.tls import certificate_in, write_private
from orchestrator.web.accounts import Accounts
from orchestrator.web.accounts_api import AccountsApi
from probes.host import REAL_PROC
from probes.tools import Tools

log = logging.getLogger(__name__)
LONGEST_SOCKET_PATH = 100
BACKLOG = 1024
KEEP_ALIVE_S = 75
"""Longer than any sensible heartbeat, so that agents keep their TLS connection."""
WATCH_S = 0.25
MESSAGE_BYTES = 256 * 1024
"""Of a terminal: what is more comes in several messages."""
GRACE_S = 5
IDLE_CHECK_S = 0.05


class CannotServe(Exception):
    """The server cannot start; the text says why."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """`url`: what agents are told, when it is not the address listened on."""

    data: Path
    host: str = "0.0.0.0"  # noqa: S104  # agents come from the network
    port: int = 0
    url: str | None = None
    iperf_port: int = 0
    iperf_servers: int = 1
    console: tuple[str, int] | None = None
    """Address and port of the operators' console; None: none is served."""
    image: Path | None = None
    """The folder of the image that hosts boot; None: no boot services."""
    boot_host: str = "0.0.0.0"  # noqa: S104  # hosts boot from the network
    boot_port: int | None = None
    """Where boot services listen, in plain HTTP. None: nowhere."""
    boot_extra: str = ""
    terminal: TerminalLimits = field(default_factory=TerminalLimits)


@dataclass(frozen=True, slots=True)
class Running:
    """`first_code`: opens the console's page that makes the first admin. Told once, kept nowhere."""

    info: ServerInfo
    first_code: str | None


class _Server(uvicorn.Server):
    """One of two servers in a loop: signals are handled once, by who started both."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def running(options: ServeOptions) -> AsyncIterator[Running]:
    """Serve while the block lasts. Raises CannotServe."""
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(_data_folder(options.data))
        certificate = certificate_in(options.data)
        tcp = stack.enter_context(_tcp_socket(options.host, options.port))
        unix = stack.enter_context(_unix_socket(options.data))
        page = stack.enter_context(_tcp_socket(*options.console)) if options.console else None
        store = SqliteStore.open(options.data / "orchestrator.db")
        stack.push_async_callback(store.close)
        iperf = IperfServers(Tools.of_environment(REAL_PROC), options.iperf_servers, options.iperf_port)
        evidence = EvidenceFolder(options.data / "evidence")
        terminals = Terminals(store, evidence, options.data / "terminals", options.terminal)
        await terminals.recover()
        tokens = BootTokens.of(options.data)
        service = AgentService(store, evidence, iperf, terminals, boot_tokens=tokens)
        url = options.url or f"https://{_reachable(tcp)}"
        service.to_review |= {run.hardware for run in store.runs() if run.hardware is not None}
        hosts = HostService(store)
        boot = await _boot(stack, options, service, hosts, url, certificate.fingerprint)
        console_url = f"https://{_reachable(page)}/" if page else None
        operator = OperatorApi(
            service, hosts, url, certificate.fingerprint, unix.getsockname(), options.data, console_url, boot
        )
        accounts = Accounts(store)
        first_code = await accounts.offer_first_login() if page else None
        tls = {"ssl_certfile": str(certificate.certificate), "ssl_keyfile": str(certificate.key)}
        await stack.enter_async_context(_listening(agent_app(service, agent_routes(service, terminals)), tcp, **tls))
        local = [*AccountsApi(accounts).routes(), *operator_routes(terminals, local_operator, PREFIX)]
        await stack.enter_async_context(_listening(operator.app(local), unix))
        if page is not None:
            from orchestrator.web.console import console_of  # with jinja2: `make vet` serves none

            console = console_of(operator, accounts, terminals)
            await stack.enter_async_context(_listening(console.app(), page, **tls))
            stack.callback(console.closing.set)
        stack.push_async_callback(terminals.close)  # while the sockets are still there
        await stack.enter_async_context(_in_background(iperf.run()))
        await stack.enter_async_context(_in_background(_watch(service)))
        info = operator.info()
        write_private(options.data / "server.json", msgspec.json.encode(info))
        stack.callback((options.data / "server.json").unlink, missing_ok=True)
        yield Running(info, first_code)


async def _boot(
    stack: contextlib.AsyncExitStack,
    options: ServeOptions,
    service: AgentService,
    hosts: HostService,
    url: str,
    fingerprint: str,
) -> str | None:
    """Boot services on a listener of their own, where they are wanted; their URL. Raises CannotServe."""
    if options.image is None or options.boot_port is None:
        return None
    image = ImageFolder(options.image)
    try:
        image.check()
    except NoImage as problem:
        raise CannotServe(str(problem)) from None
    assert service.boot_tokens is not None
    listener = stack.enter_context(_tcp_socket(options.boot_host, options.boot_port))
    boot = BootService(service, hosts, service.boot_tokens, image, url, fingerprint, options.boot_extra)
    await stack.enter_async_context(_listening(boot_app(boot), listener))
    return f"http://{_reachable(listener)}"


@contextlib.contextmanager
def _data_folder(folder: Path) -> Iterator[None]:
    """The folder with mode 0700, locked: two servers on one database would each believe to be the only writer."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CannotServe(f"another vetting-orchestrator already serves {folder}") from None
        yield


@contextlib.contextmanager
def _tcp_socket(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio switches Nagle's algorithm off only then: 2 ms a call instead of 44.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as problem:
            raise CannotServe(f"cannot listen on {host}:{port}: {problem.strerror}") from None
        listener.setblocking(False)
        yield listener


@contextlib.contextmanager
def _unix_socket(data: Path) -> Iterator[socket.socket]:
    """DATA/operator.sock with mode 0600; in a folder of its own under /tmp when that path is too long for a socket."""
    with contextlib.ExitStack() as stack:
        path = data.absolute() / "operator.sock"
        if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="vetting-", dir="/tmp"))
            path = Path(folder) / "operator.sock"
        path.unlink(missing_ok=True)
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.bind(str(path))
        path.chmod(0o600)
        stack.callback(path.unlink, missing_ok=True)
        listener.setblocking(False)
        yield listener


@contextlib.asynccontextmanager
async def _listening(app: ASGIApp, listener: socket.socket, **tls: str) -> AsyncIterator[None]:
    config = uvicorn.Config(
        app,
        http="h11",
        ws="wsproto",
        ws_max_size=MESSAGE_BYTES,
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        **tls,  # type: ignore[arg-type]  # two of the many keywords, all of them text
    )
    config.load()
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            await asyncio.sleep(0.005)
            if task.done():
                task.result()
                raise CannotServe("the HTTP server ended at its start")
        yield
    finally:
        server.should_exit = True
        await _ended(server, task)


async def _ended(server: uvicorn.Server, task: asyncio.Task[None]) -> None:
    """Wait for the calls that are being answered, not for idle agents to say goodbye in TLS."""
    while not task.done():
        await asyncio.wait({task}, timeout=IDLE_CHECK_S)
        if not server.server_state.tasks:
            for connection in list(server.server_state.connections):
                transport = connection.transport
                if transport is not None and transport.get_write_buffer_size() == 0:
                    transport.abort()
    task.result()


@contextlib.asynccontextmanager
async def _in_background(work: object) -> AsyncIterator[None]:
    task: asyncio.Task[None] = asyncio.ensure_future(work)  # type: ignore[call-overload]  # a coroutine
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _watch(service: AgentService) -> None:
    while True:
        await asyncio.sleep(WATCH_S)
        try:
            await service.find_silent_hosts()
            await service.review_peers()
        except Exception:
            log.exception("looking after the runs failed")


def _reachable(listener: socket.socket) -> str:
    """host:port as hosts of the network reach it: the address with the default route where all are listened on."""
    host, port = listener.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:  # noqa: S104  # compared, not listened on
        host = _own_address(listener.family)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _own_address(family: int) -> str:
    nowhere = "2001:db8::1" if family == socket.AF_INET6 else "192.0.2.1"
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((nowhere, 9))  # sends nothing: it only asks the routing table
            return str(probe.getsockname()[0])
        except OSError:
            return "::1" if family == socket.AF_INET6 else "127.0.0.1"
