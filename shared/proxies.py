"""The proxies that the environment names, made safe for clients of this machine's own servers.

A proxy can't reach the 127.0.0.1 of this machine, but HTTP clients send requests for it through a proxy unless NO_PROXY
excludes it. httpx even refuses to start with a proxy that it can't use: with ALL_PROXY=socks://… `import ollama` fails,
whatever NO_PROXY is. `import shared` calls `settle`, so that the clients of a notebook and every program that this
process starts find usable settings.
"""

import os
from collections.abc import Mapping, MutableMapping
from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")  # Linux programs read them in lower case, too
SCHEMES = ("http", "https", "socks5", "socks5h")  # that httpx can use
# docker gives the proxies of its user's settings to every container. SGLang's first request to itself would take one.
IN_CONTAINERS = dict.fromkeys(("NO_PROXY", "no_proxy"), ",".join(LOOPBACK))

AS_SET: dict[str, str] = {}  # the proxies of this process as its user set them


def settle(environment: MutableMapping[str, str] = os.environ) -> None:
    """Exclude this machine's own addresses from the proxies of this environment, and drop those that can't be used."""
    found = proxies(environment)
    if environment is os.environ:
        AS_SET.update(found)
    for name, value in found.items():
        environment[name] = value = known(value)
        if fault(value):
            del environment[name]
    # Go reads NO_PROXY first, Python and curl no_proxy: both get the same list.
    lists = [environment.get(name, "") for name in ("NO_PROXY", "no_proxy")]
    excluded = [host.strip() for one in lists for host in one.split(",") if host.strip()]
    if found and "*" not in excluded:
        environment["NO_PROXY"] = environment["no_proxy"] = ",".join(dict.fromkeys([*excluded, *LOOPBACK]))


def proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that name a proxy, and their values."""
    names = (name for upper in PROXIES for name in (upper, upper.lower()))
    return {name: environment[name] for name in names if environment.get(name)}


def known(proxy: str) -> str:
    """The proxy in a form that clients know. Desktops set "socks://", which means SOCKS 5."""
    return proxy.replace("socks://", "socks5://", 1) if proxy.startswith("socks://") else proxy


def address(proxy: str) -> str:
    """The proxy without a user name and a password, for a message."""
    return proxy.rpartition("@")[2].rpartition("://")[2].rstrip("/")


def fault(proxy: str) -> str:
    """Why clients can't use this proxy; "" if they can."""
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        host, _ = parts.hostname, parts.port
    except ValueError as e:
        return str(e)
    if parts.scheme not in SCHEMES:
        return f"clients can't use a proxy of the kind {parts.scheme}"
    return "" if host else "it names no host"
