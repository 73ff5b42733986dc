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
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec
import uvicorn
from starlette.types import ASGIApp

from orchestrator.agent_app import VerbCalls, agent_app
from orchestrator.agent_line import AgentLine
from orchestrator.agent_service import AgentService
from orchestrator.boot_app import boot_app
from orchestrator.boot_service import BootService
from orchestrator.boot_tokens import BootTokens
from orchestrator.evidence import EvidenceFolder
from orchestrator.host_service import HostService
from orchestrator.images import ImageFolder, NoImage
from orchestrator.iperf import IperfServers
from orchestrator.listeners import CannotServe, reachable, tcp_socket, unix_socket
from orchestrator.operator_app import PREFIX, OperatorApi
from orchestrator.operator_messages import ServerInfo
from orchestrator.pacing import CALLS_PER_S, Pacer
from orchestrator.quota import Quotas
from orchestrator.retention import Kept, keep_only
from orchestrator.run_watch import WATCH_S, watch_runs
from orchestrator.site_keys import SiteKey
from orchestrator.sqlite_store import SqliteStore
from orchestrator.terminal_access import local_operator
from orchestrator.terminal_app import agent_routes, operator_routes
from orchestrator.terminal_session import TerminalLimits
from orchestrator.terminals import Terminals
from orchestrator.tls import certificate_in, write_private
from orchestrator.web.accounts import Accounts
from orchestrator.web.accounts_api import AccountsApi
from orchestrator.webhook_alerts import AlertWatch
from orchestrator.webhook_app import WebhookApi
from orchestrator.webhook_receivers import WebhookOptions
from orchestrator.webhook_signing import FILE_NAME, BadSecret, secrets_in
from probes.host import REAL_PROC
from probes.tools import Tools

log = logging.getLogger(__name__)
BACKLOG = 1024
KEEP_ALIVE_S = 75
"""Longer than any sensible heartbeat, so that agents keep their TLS connection."""
MESSAGE_BYTES = 256 * 1024
"""Of a terminal: what is more comes in several messages."""
GRACE_S = 5
IDLE_CHECK_S = 0.05

HttpProtocol = Callable[..., asyncio.Protocol]


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
    console_url: str | None = None
    """What people are told, when it is not the address listened on."""
    image: Path | None = None
    """The folder of the image that hosts boot; None: no boot services."""
    boot_host: str = "0.0.0.0"  # noqa: S104  # hosts boot from the network
    boot_port: int | None = None
    """Where boot services listen, in plain HTTP. None: nowhere."""
    boot_extra: str = ""
    terminal: TerminalLimits = field(default_factory=TerminalLimits)
    webhooks: WebhookOptions = field(default_factory=WebhookOptions)
    kept: Kept = field(default_factory=Kept)
    quotas: Quotas = field(default_factory=Quotas)
    calls_per_s: float = CALLS_PER_S
    """What hosts may make together before the claim tells them longer intervals."""
    push_logs: str | None = None
    """URL of a VictoriaLogs that gets the hosts' log lines."""
    site_keys: tuple[SiteKey, ...] = ()
    """SSH keys that open every held host."""


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
        tcp = stack.enter_context(tcp_socket(options.host, options.port))
        unix = stack.enter_context(unix_socket(options.data))
        page = stack.enter_context(tcp_socket(*options.console)) if options.console else None
        keys = _webhook_keys(options)
        store = SqliteStore.open(options.data / "orchestrator.db", options.webhooks.receivers)
        stack.push_async_callback(store.close)
        iperf = IperfServers(Tools.of_environment(REAL_PROC), options.iperf_servers, options.iperf_port)
        evidence = EvidenceFolder(options.data / "evidence")
        evidence.sweep_drafts()
        terminals = Terminals(store, evidence, options.data / "terminals", options.terminal)
        await terminals.recover()
        tokens = BootTokens.of(options.data)
        service = AgentService(
            store,
            evidence,
            iperf,
            terminals,
            boot_tokens=tokens,
            site_keys=options.site_keys,
            pacer=Pacer(options.calls_per_s),
            quotas=options.quotas,
        )
        url = options.url or f"https://{reachable(tcp)}"
        service.to_review |= {run.hardware for run in store.runs() if run.hardware is not None}
        hosts = HostService(store)
        boot = await _boot(stack, options, service, hosts, url, certificate.fingerprint)
        console_url = (options.console_url or f"https://{reachable(page)}/") if page else None
        store.link_to(console_url)
        image = ImageFolder(options.image) if options.image is not None and boot is not None else None
        operator = OperatorApi(
            service, hosts, url, certificate.fingerprint, unix.getsockname(), options.data, console_url, boot, image
        )
        accounts = Accounts(store)
        first_code = await accounts.offer_first_login() if page else None
        tls = {"ssl_certfile": str(certificate.certificate), "ssl_keyfile": str(certificate.key)}
        line = partial(AgentLine, VerbCalls(service).answer)
        app = agent_app(service, agent_routes(service, terminals))
        await stack.enter_async_context(_listening(app, tcp, tls, line))
        webhooks = WebhookApi(store, options.webhooks.receivers, keys).routes()
        local = [*AccountsApi(accounts).routes(), *webhooks, *operator_routes(terminals, local_operator, PREFIX)]
        await stack.enter_async_context(_listening(operator.app(local), unix))
        if page is not None:
            from orchestrator.web.console import console_of  # with jinja2: `make vet` serves none

            console = console_of(operator, accounts, terminals)
            await stack.enter_async_context(_listening(console.app(), page, tls))
            stack.callback(console.closing.set)
        stack.push_async_callback(terminals.close)  # while the sockets are still there
        await stack.enter_async_context(_in_background(iperf.run()))
        await stack.enter_async_context(_in_background(watch_runs(service)))
        await stack.enter_async_context(_in_background(keep_only(store, options.kept)))
        await _start_webhooks(stack, options.webhooks, service, keys)
        if options.push_logs is not None:
            from orchestrator.log_push import LogPush  # with httpx

            await stack.enter_async_context(_in_background(LogPush(store, options.push_logs).run()))
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
    listener = stack.enter_context(tcp_socket(options.boot_host, options.boot_port))
    boot = BootService(service, hosts, service.boot_tokens, image, url, fingerprint, options.boot_extra)
    await stack.enter_async_context(_listening(boot_app(boot), listener))
    return f"http://{reachable(listener)}"


def _webhook_keys(options: ServeOptions) -> tuple[bytes, ...]:
    """What webhooks are signed with. Raises CannotServe."""
    given = options.webhooks.secret
    try:
        return secrets_in(given or options.data / FILE_NAME, make=given is None)
    except BadSecret as problem:
        raise CannotServe(str(problem)) from None


async def _start_webhooks(
    stack: contextlib.AsyncExitStack, options: WebhookOptions, service: AgentService, keys: tuple[bytes, ...]
) -> None:
    """Delivery, and the watch for alerts that only others would see; nothing where nobody is to be told."""
    if not options.receivers:
        return
    from orchestrator.webhook_sending import Sender  # with httpx, which takes its time to load
    from orchestrator.webhooks import Webhooks

    alerts = AlertWatch(service)
    await alerts.recall()
    webhooks = Webhooks(service.store, Sender.of(keys), options.receivers, options.first_pause_s)
    await stack.enter_async_context(_in_background(webhooks.run()))
    await stack.enter_async_context(_in_background(_watch_alerts(alerts)))


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


@contextlib.asynccontextmanager
async def _listening(
    app: ASGIApp, listener: socket.socket, tls: dict[str, Any] | None = None, http: HttpProtocol | str = "h11"
) -> AsyncIterator[None]:
    config = uvicorn.Config(
        app,
        http=cast("Any", http),
        ws="wsproto",
        ws_max_size=MESSAGE_BYTES,
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=True,  # hosts that boot without a clock compare theirs with it
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        **(tls or {}),
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


async def _watch_alerts(alerts: AlertWatch) -> None:
    while True:
        await asyncio.sleep(WATCH_S)
        try:
            await alerts.check()
        except Exception:
            log.exception("looking for alerts failed")
