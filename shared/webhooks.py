"""Webhooks: where one may go, what it says of the end of a job, and when it is tried again.

A caller chooses the URL and this server calls it: nothing that only the server can reach may be called that way.
"""

from __future__ import annotations

import hashlib
import ipaddress
import random
import socket
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import orjson

from shared.errors import InvalidParameter
from shared.jobs.job import Attempt, Delivery, JobView
from shared.jobs.wire import job_object
from shared.settings import Settings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Seconds between one try and the next: about a day in all, often at first.
PAUSES_S = (5, 30, 120, 600, 1800, 3600, 7200, 14_400, 28_800, 28_800)
# Added at random to each, so that what failed together does not come back together.
JITTER = 0.2
# The receiver says that it will never want this again.
GONE = 410

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: Address) -> bool:
    """Whether anybody on the internet could call this address too; an IPv4 address inside an IPv6 one counts as itself."""
    if isinstance(address, ipaddress.IPv6Address):
        inside = address.ipv4_mapped or address.sixtofour
        if inside is None and address in _NAT64:
            inside = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inside is not None:
            return is_public(inside)
        if address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved and not address.is_unspecified


def literal_address(host: str) -> Address | None:
    """The address that a host in a URL is, in any spelling that resolvers take (127.1, 0x7f000001); None if it is a name."""
    with suppress(ValueError):
        return ipaddress.ip_address(host)
    with suppress(OSError):
        return ipaddress.IPv4Address(socket.inet_aton(host))
    return None


def check_submitted(url: str, settings: Settings) -> None:
    """Refuse what can be refused without looking up a name. Raises InvalidParameter; the name is looked up at delivery."""
    if settings.webhook_secret is None:
        raise _wrong("this server sends no webhooks: it has no UMEKOMI_WEBHOOK_SECRET to sign them with")
    # A caller's text stands in a header and in a log of whoever is called: only what belongs into a URL.
    if not url.isascii() or any(character <= " " or character in '\\"<>^`{|}\x7f' for character in url):
        raise _wrong("must be an ASCII URL without spaces")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _wrong("must be a URL") from None
    if parts.scheme not in ("http", "https") or not host:
        raise _wrong("must be an http:// or https:// URL")
    if "@" in parts.netloc:
        raise _wrong("must hold no user name or password")
    if parts.fragment:
        raise _wrong("must hold no fragment")
    if port == 0:
        raise _wrong("must have a port from 1 to 65535")
    if settings.webhook_allow_private:
        return
    address = literal_address(host)
    name = host.rstrip(".").lower()
    if (address is not None and not is_public(address)) or name == "localhost" or name.endswith(".localhost"):
        raise _wrong("must not lead to a private address")


def _wrong(message: str) -> InvalidParameter:
    return InvalidParameter(f"webhook_url: {message}", param="webhook_url")


@dataclass(frozen=True, slots=True)
class Event:
    """What a webhook says, the same at every try."""

    id: str
    body: bytes


def event_of(view: JobView, *, expire_after_s: float) -> Event:
    """The end of a job. Its id is always the same, so that a receiver can tell a second delivery."""
    done = view.marks.done
    assert done is not None
    event_id = event_id_of(view)
    untold = replace(view, delivery=Delivery())
    told: dict[str, Any] = {
        "id": event_id,
        "object": "event",
        "type": f"embedding.job.{done.status}",
        "created_at": int(done.finished_at),
        "data": job_object(untold, done.finished_at, expire_after_s=expire_after_s),
    }
    return Event(event_id, orjson.dumps(told))


def event_id_of(view: JobView) -> str:
    """An id for each end of a job: after a retry of failed rows it ends once more."""
    return "evt_" + hashlib.sha256(f"{view.job.id}/{len(view.job.rounds)}".encode()).hexdigest()[:36]


def next_try_at(view: JobView) -> float | None:
    """When to try (again), unix seconds; None if it is over. The same whoever asks: nothing about it needs to be kept."""
    done, delivery = view.marks.done, view.delivery
    if view.job.webhook_url is None or done is None or delivery.is_over:
        return None
    if not delivery.attempts:
        return done.finished_at
    tries = len(delivery.attempts)
    if tries > len(PAUSES_S):
        return None
    jitter = random.Random(f"{event_id_of(view)}/{tries}").uniform(1.0, 1.0 + JITTER)
    return delivery.attempts[-1].at + PAUSES_S[tries - 1] * jitter


def after(delivery: Delivery, *, at: float, status: int | None, error: str | None) -> Delivery:
    """The delivery after one more try, which was answered with `status` or went wrong."""
    attempts = (*delivery.attempts, Attempt(at=at, status=status, error=error))
    if status is not None and 200 <= status < 300:
        return Delivery(attempts=attempts, delivered_at=at)
    is_last = status == GONE or len(attempts) > len(PAUSES_S)
    return Delivery(attempts=attempts, given_up_at=at if is_last else None)
