"""Guessing made slow: failures are counted in the store, and each one lengthens the next wait.

Nobody is locked out for good, and a restart resets nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from heedful.store import sessions

# Failures in a row before there is a delay. Many accounts behind one address have a wider
# allowance; a code has a million values, so few are free.
FREE_FAILURES = {"login-account": 5, "login-ip": 30, "code-account": 5}
MAX_DELAY_S = 900.0


def wait_s(connection: Any, subjects: Mapping[str, str], *, now: float) -> float:
    """Seconds until the next attempt, the longest wait of {scope: subject}; 0.0 for none."""
    waits = [0.0]
    for scope, subject in subjects.items():
        num_failures, last_at = sessions.failures(connection, scope, subject)
        waits.append(_delay_s(num_failures - FREE_FAILURES[scope]) + last_at - now)
    return max(waits)


def note_refused(
    connection: Any,
    subjects: Mapping[str, str],
    user_id: int | None,
    why: str,
    *,
    now: float,
    network: str | None = None,
) -> None:
    """Counts a failure of each of {scope: subject}, and enters it into the record."""
    for scope, subject in subjects.items():
        sessions.note_failure(connection, scope, subject, now=now)
    from_where = subjects.get("login-ip", "unknown") if network is None else network
    sessions.note_refusal(connection, user_id, why, from_where, now=now)


def _delay_s(over: int) -> float:
    """The wait after a failure: 1, 2, 4 ... seconds after the free ones."""
    return 0.0 if over < 0 else min(2.0 ** min(over, 30), MAX_DELAY_S)


def network_of(request: Request) -> str:
    """The neighbourhood of an address: /24 of IPv4, /56 of IPv6."""
    try:
        address = ipaddress.ip_address(request.client.host if request.client else "")
    except ValueError:
        return "unknown"
    length = 24 if address.version == 4 else 56
    return str(ipaddress.ip_network(f"{address}/{length}", strict=False))
