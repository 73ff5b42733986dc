"""The way to the orchestrator: an HTTP client that trusts exactly the pinned certificates, or those of the system.

With fingerprints, no byte of a request leaves before the handshake has proven one of them, on every connection:

1. The server's certificate is fetched with verification off, nothing is sent, and its SHA-256 is compared.
2. The client's TLS context has that certificate as its only anchor (partial chain; names and dates do not matter).
3. The context's connection classes compare the peer's certificate again, right after each handshake.

Step 2 alone would take a certificate that the pinned one has signed; step 3 alone would fail open in a client that
makes its connections another way. When the server rotates to another pinned certificate, `renew` starts over.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl
from collections.abc import Sequence
from typing import Protocol
from urllib.parse import urlsplit

import httpx

X509_V_FLAG_NO_CHECK_TIME = 0x200000  # openssl/x509_vfy.h; the ssl module has no name for it
KEEPALIVE_S = 30.0
CONNECTIONS = 8
WHOLE_CALL_S = 60.0


class FingerprintMismatch(ssl.SSLError):
    """The server's certificate is none of the pinned ones. The text says which were expected and which was seen."""

    def __init__(self, expected: Sequence[str], seen: str) -> None:
        super().__init__(1, f"TLS fingerprint mismatch: expected {' or '.join(expected)}, seen {seen}")


class Way(Protocol):
    """Gives the HTTP client to make a call with."""

    async def client(self) -> httpx.AsyncClient:
        """The client; connects nowhere yet, but may look at the server's certificate. Raises ssl.SSLError, OSError."""
        ...

    async def context(self) -> ssl.SSLContext | None:
        """The same trust for a connection that is no HTTP call; None: without TLS. Raises as `client` does."""
        ...

    async def renew(self) -> bool:
        """After a failed connection: True when the server has another good certificate, and a retry makes sense."""
        ...

    async def close(self) -> None: ...


def way_to(base_url: str, fingerprints: Sequence[str]) -> Way:
    """The way to an orchestrator."""
    if base_url.startswith("http://"):
        # An empty context loads no certificate store: none is ever used here, and TLS would fail closed.
        return FixedWay(_http_client(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)))
    if not fingerprints:
        trust = ssl.create_default_context()
        return FixedWay(_http_client(trust), trust)
    parts = urlsplit(base_url)
    assert parts.hostname is not None
    return PinnedWay(parts.hostname, parts.port or 443, tuple(fingerprints))


class FixedWay:
    """A client made once."""

    def __init__(self, client: httpx.AsyncClient, context: ssl.SSLContext | None = None) -> None:
        self._client = client
        self._context = context

    async def client(self) -> httpx.AsyncClient:
        return self._client

    async def context(self) -> ssl.SSLContext | None:
        return self._context

    async def renew(self) -> bool:
        return False

    async def close(self) -> None:
        await self._client.aclose()


class PinnedWay:
    """A client whose trust is one certificate, fetched and compared before its first use."""

    def __init__(self, host: str, port: int, pins: tuple[str, ...]) -> None:
        self._host = host
        self._port = port
        self._pins = pins
        self._anchor: str | None = None
        self._client: httpx.AsyncClient | None = None
        self._context: ssl.SSLContext | None = None
        self._lock = asyncio.Lock()

    async def client(self) -> httpx.AsyncClient:
        async with self._lock:
            if self._client is None:
                await self._anchor_at(await self._fetch())
            assert self._client is not None
            return self._client

    async def context(self) -> ssl.SSLContext | None:
        await self.client()
        return self._context

    async def renew(self) -> bool:
        """Raises FingerprintMismatch when the server now shows a certificate that is not pinned."""
        async with self._lock:
            leaf = await self._fetch()
            if fingerprint_of(leaf) == self._anchor:
                return False
            await self._drop()
            await self._anchor_at(leaf)
            return True

    async def close(self) -> None:
        async with self._lock:
            await self._drop()

    async def _fetch(self) -> bytes:
        leaf = await fetch_leaf(self._host, self._port)
        check(leaf, self._pins)
        return leaf

    async def _anchor_at(self, leaf: bytes) -> None:
        self._context = pinned_context(leaf, self._pins)
        self._client = _http_client(self._context)
        self._anchor = fingerprint_of(leaf)

    async def _drop(self) -> None:
        client, self._client, self._anchor = self._client, None, None
        if client is not None:
            await client.aclose()


def fingerprint_of(der: bytes) -> str:
    """SHA-256 of a certificate, lower-case hex."""
    return hashlib.sha256(der).hexdigest()


def check(der: bytes | None, pins: Sequence[str]) -> None:
    """Raises FingerprintMismatch unless the certificate is pinned."""
    seen = fingerprint_of(der) if der else "no certificate"
    if seen not in pins:
        raise FingerprintMismatch(pins, seen)


async def fetch_leaf(host: str, port: int) -> bytes:
    """The DER of the server's own certificate. Nothing is sent but the handshake. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    _, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        der: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    if der is None:
        raise ssl.SSLError(1, "the server showed no certificate")
    return der


def pinned_context(leaf: bytes, pins: tuple[str, ...]) -> ssl.SSLContext:
    """A client context that takes the one certificate `leaf`, and looks at the peer's again after each handshake."""

    class PinnedObject(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            check(self.getpeercert(binary_form=True), pins)

    class PinnedSocket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            check(self.getpeercert(binary_form=True), pins)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(X509_V_FLAG_NO_CHECK_TIME)
    context.load_verify_locations(cadata=leaf)
    context.sslobject_class = PinnedObject
    context.sslsocket_class = PinnedSocket
    return context


def _http_client(context: ssl.SSLContext) -> httpx.AsyncClient:
    # The caller bounds the whole call more tightly: httpx's limits are per read, and never end a dripping answer.
    return httpx.AsyncClient(
        verify=context,
        trust_env=False,
        follow_redirects=False,
        timeout=httpx.Timeout(WHOLE_CALL_S),
        limits=httpx.Limits(max_connections=CONNECTIONS, keepalive_expiry=KEEPALIVE_S),
    )
