"""How a request identifies its sender: by a token, or as coming from this machine."""

from __future__ import annotations

import ipaddress
from typing import Any

AUDIENCE = "muster.dev"  #: of tokens that are for muster alone
TOKEN_HEADER = b"x-muster-token"  #: the API server's proxy keeps Authorization to itself
Scope = dict[str, Any]


def token_of(scope: Scope) -> str:
    """Return the token that a request shows; empty if it shows none."""
    named: dict[bytes, bytes] = dict(scope["headers"])
    kind, _, token = named.get(b"authorization", b"").partition(b" ")
    found = token if kind.lower() == b"bearer" else named.get(TOKEN_HEADER, b"")
    return found.strip().decode("ascii", errors="replace")


def is_here(scope: Scope) -> bool:
    """True if a request was made on this machine, or in this pod, for this machine.

    Not if a proxy forwarded it for somebody else, such as a service mesh's, which says so; nor if
    it came from a page with another host name that a browser here was led to.
    """
    client = (scope.get("client") or ("",))[0]
    if not _is_loopback(client):
        return False
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    told = any(
        name in (b"forwarded", b"via") or name.startswith((b"x-forwarded-", b"x-envoy-"))
        for name, _ in scope["headers"]
    )
    return not told and len(hosts) == 1 and is_loopback_host(hosts[0].decode("latin-1"))


def is_loopback_host(text: str) -> bool:
    """True if a Host header names this machine."""
    name = text.rpartition(":")[0] if text.rpartition(":")[2].isdecimal() else text
    return name.lower() == "localhost" or _is_loopback(name.strip("[]"))


def _is_loopback(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
