"""How the requests of a lane leave this machine: by which of its addresses, or through which proxy.

`--lane` names it: an IP address of this machine (requests leave by it), the URL of a proxy, or any
other name for the address that requests leave by anyway. Several make one worker use several
budgets, each its own lane. This room reads the words and looks at the machine; it asks nobody.
"""

from __future__ import annotations

import ipaddress
import socket
from base64 import b64encode
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from vigil.errors import UsageError


@dataclass(frozen=True, slots=True)
class Egress:
    """One way out. `name` is the lane's; `ip` an address of this machine; `proxy` a URL that may hold a password."""

    name: str
    ip: str | None = None
    proxy: str | None = field(default=None, repr=False)

    @property
    def family(self) -> socket.AddressFamily:
        """What a connection must be made with: an address of one family reaches no other."""
        if self.ip is None:
            return socket.AF_UNSPEC
        return socket.AF_INET6 if ":" in self.ip else socket.AF_INET

    @property
    def proxy_url(self) -> str | None:
        """The proxy's URL without user and password, which would come to light in errors."""
        if self.proxy is None:
            return None
        parts = urlsplit(self.proxy)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    @property
    def proxy_headers(self) -> dict[str, str]:
        """What lets us in at the proxy."""
        parts = urlsplit(self.proxy or "")
        if parts.username is None:
            return {}
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return {"Proxy-Authorization": f"Basic {b64encode(login.encode()).decode()}"}

    def check(self) -> None:
        """Raises: UsageError when `ip` is no address of this machine."""
        if self.ip is None:
            return
        try:
            with socket.socket(self.family, socket.SOCK_STREAM) as probe:
                probe.bind((self.ip, 0))
        except OSError as error:
            raise UsageError(
                f"--lane {self.ip}: requests can't leave by that address: {error.strerror or error}.",
                hint="`ip address` lists the addresses of this machine; a lane may also be a proxy's URL, or any name.",
            ) from error


def read_lanes(text: str) -> tuple[Egress, ...]:
    """The lanes of a worker, from names separated by commas, as in VIGIL_LANE.

    Raises: UsageError where one can't work, or two can't both.
    """
    lanes = tuple(_read_lane(word.strip()) for word in text.split(","))
    names = [lane.name for lane in lanes]
    if any("@" in name for name in names):  # a piece of a URL with a password: not shown
        raise _unescaped()
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"The lane {twice[0]} is given twice.")
    nameless = [lane.name for lane in lanes if lane.ip is None and lane.proxy is None]
    if nameless and len(lanes) > 1:
        raise UsageError(
            f"--lane {nameless[0]} says not by which address its requests leave, so it can't be one of several.",
            hint="Give each an IP address of this machine or the URL of a proxy.",
        )
    return lanes


def _read_lane(word: str) -> Egress:
    if not word or len(word) > 200 or not word.isprintable():
        raise UsageError(
            "A lane's name must have 1 to 200 characters, all printable.", hint="Check VIGIL_LANE or --lane."
        )
    if "://" in word:
        return _read_proxy(word)
    try:
        ip = ipaddress.ip_address(word.strip("[]"))
    except ValueError:
        return Egress(word)
    ip = getattr(ip, "ipv4_mapped", None) or ip
    if ip.is_unspecified or ip.is_multicast:
        raise UsageError(f"--lane {ip} is no address that requests could leave by.", hint="`ip address` lists them.")
    return Egress(str(ip), ip=str(ip))


def _read_proxy(url: str) -> Egress:
    parts = urlsplit(url)
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise _unescaped()
    try:
        port = parts.port
    except ValueError:
        if parts.hostname and "@" not in parts.netloc:  # perhaps a user and the first half of a password
            raise _unescaped() from None
        port = 0
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        raise UsageError(
            f"--lane {shown} is no proxy that can be used.", hint="For example http://user:password@10.0.0.7:3128."
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Egress(host if port is None else f"{host}:{port}", proxy=url)


def _unescaped() -> UsageError:
    return UsageError(
        "A proxy's URL among the lanes can't be read.",
        hint="It is scheme://user:password@host:port; in a password write %2C for a comma, %2F for /, %40 for @,"
        " %23 for #, %3F for ?.",
    )
