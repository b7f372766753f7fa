"""Who may ask the page's server: the browser that opened the printed address, from its page."""

from __future__ import annotations

import hmac
import ipaddress
import json
import os
import secrets
import socket
from dataclasses import dataclass
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BODY = 64 << 10  # bytes of a request
LOOPBACK = ("127.0.0.1", "localhost", "::1")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src"
    " 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# A report is a closed file with its script inside: it is shown as from nowhere, and can ask nothing
# of this server.
REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; img-src data:; style-src 'unsafe-inline';"
    " script-src 'unsafe-inline'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
CLOSED = (
    "This page belongs to whoever started it: open the address that `convwise serve` printed, with"
    " its token.\n"
)


@dataclass(frozen=True)
class Door:
    """Where the page is: its address, and the token that opens it."""

    host: str
    port: int
    token: str

    @property
    def address(self) -> str:
        """What to open in a browser."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}.get(self.host, self.host)
        return f"http://{host}:{self.port}/?token={self.token}"

    @property
    def cookie(self) -> str:
        """Its name: browsers keep one jar for all ports of a host."""
        return f"convwise-{self.port}"

    def is_ours(self, host: str) -> bool:
        """Whether a Host header names this machine: another name is a page elsewhere that was made
        to resolve here.
        """
        name, _, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
        bare = (name or host).strip("[]")
        if port and port != str(self.port):
            return False
        if bare in LOOPBACK or bare == self.host:
            return True
        return self.host not in LOOPBACK and (bare == socket.gethostname() or _is_address(bare))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def door(folder: Path, host: str, port: int | None) -> tuple[Door, socket.socket]:
    """A bound socket, and its door: the port and the token that this folder's page had before,
    where that can be.

    OSError where a port that was asked for is taken.
    """
    file = folder / ".page.json"
    try:
        before = json.loads(file.read_text())
        token, wished = str(before["token"]), int(before["port"])
    except (OSError, ValueError, KeyError, TypeError):
        token, wished = secrets.token_urlsafe(24), 8787
    bound = _bound(host, [wished, 0] if port is None else [port])
    found = Door(host, bound.getsockname()[1], token)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        json.dump({"port": found.port, "token": token}, out)
    return found, bound


def _bound(host: str, ports: list[int]) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for port in ports:
        try:
            bound.bind((host, port))
            return bound
        except OSError:
            if port == ports[-1]:
                bound.close()
                raise
    raise AssertionError("no port was given")


class Guard:
    """ASGI middleware: checks Host, token and origin first; every answer gets HEADERS."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self.app, self.door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        opened = self._token(scope)

        async def closed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if opened:
                    headers.append(
                        "Set-Cookie",
                        f"{self.door.cookie}={opened}; HttpOnly; SameSite=Strict; Path=/",
                    )
            await send(message)

        if refusal := self._refusal(scope):
            await PlainTextResponse(refusal[1], refusal[0])(scope, receive, closed)
            return
        await self.app(scope, receive, closed)

    def _token(self, scope: Scope) -> str:
        """The token in the address of the page itself, where it is the right one."""
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        return given if scope["path"] == "/" and self._is_token(given) else ""

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.door.token.encode())

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        if not self.door.is_ours(headers.get("host", "")):
            return 421, "This server only answers to its own address.\n"
        cookie = SimpleCookie(headers.get("cookie", "")).get(self.door.cookie)
        if not self._token(scope) and not (cookie and self._is_token(cookie.value)):
            return 403, CLOSED
        if scope["method"] not in ("GET", "HEAD"):
            if headers.get("origin", "") != f"http://{headers.get('host')}":
                return 403, "Only the page itself may ask for this.\n"
            if headers.get("content-type", "") != "application/json":
                return 415, "JSON is expected.\n"
            length = headers.get("content-length", "")
            if not length.isdigit() or int(length) > MOST_BODY:
                return 413, "This is longer than any request of the page.\n"
        return None
