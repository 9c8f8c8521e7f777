"""The address to open, and its QR code for a phone's camera."""

from __future__ import annotations

import io
import ipaddress
import socket

from cmexport.errors import BackendError

_EVERYWHERE = ("0.0.0.0", "::", "")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def reachable_host(host: str) -> str:
    """Return the address that another machine would use: `host`, or this machine's own when it listens on all of them.

    Raises:
        BackendError: it listens on all, and has none but loopback.
    """
    if host not in _EVERYWHERE:
        return host
    family = socket.AF_INET6 if host == "::" else socket.AF_INET
    # Connecting a datagram socket sends nothing, but chooses the interface: 192.0.2.1 and 2001:db8:: are documentation.
    target = "2001:db8::1" if host == "::" else "192.0.2.1"
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((target, 9))
            return str(probe.getsockname()[0])
    except OSError:
        raise BackendError(
            f"--host {host}: this machine has no address that another could reach; connect it to a network, or name "
            "its address: --host ADDRESS"
        ) from None


def link(scheme: str, host: str, port: int, token: str) -> str:
    """Return the address of a visit."""
    where = f"[{host}]" if ":" in host else host
    return f"{scheme}://{where}:{port}/{token}/"


def qr_code(text: str) -> str | None:
    """Draw a QR code in half-block characters; None without the library."""
    try:
        import segno
    except ImportError:
        return None
    out = io.StringIO()
    segno.make(text, error="l", micro=False).terminal(out=out, compact=True, border=2)
    return out.getvalue()
