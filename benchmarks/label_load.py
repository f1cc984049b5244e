"""A thousand labelers at work for ten minutes: how long do pages and saves take?

    python benchmarks/label_load.py labels.db
    python benchmarks/label_load.py postgresql+psycopg://user@host/name

Each labeler claims a task, loads its page, saves a draft ``--saves`` times while working, says
every minute that they are there, and submits. The time of a task follows from the rate of claims,
saves and submissions that all of them make together, ``--writes`` per second: 1,000 labelers at 37
per second take ten minutes for a task. They start as if in the middle of one.

Prints a line of JSON: how long pages, saves and submissions took in ms, requests and writes per
second, the server's memory and share of a core, and errors. Exit code 1 if anything failed, or if
an acknowledged submission is not in the store afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
from label_service import KEEPALIVE_S, NOTE, Desk, Person, Server, furnish, opened, percentiles

from heedful.store import audit, labels

BEAT_S = 60.0
TARGET = 3  # labelers of a task
CONNECTIONS = 200
TARGETS_MS = {"page": 300, "save": 200}  # p95


class Load:
    """What labelers do until a time, and how long the server took for it."""

    def __init__(self, options: argparse.Namespace, client: httpx.AsyncClient):
        self.options, self.client = options, client
        self.task_s = options.labelers * (options.saves + 2) / options.writes
        self.pause_s = self.task_s / (options.saves + 2)
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.errors: Counter[str] = Counter()
        self.end = 0.0
        self.num_submitted = 0

    async def run(self, everybody: list[Person]) -> float:
        """Lets everybody work; the seconds that it took."""
        start = time.monotonic()
        self.end = start + 60 * self.options.minutes
        await asyncio.gather(
            *(
                self._work(Desk(one, self.client), random.Random(n))
                for n, one in enumerate(everybody)
            )
        )
        return time.monotonic() - start

    async def _work(self, desk: Desk, chance: random.Random) -> None:
        # Somewhere in the middle of a task; the first pages come within one pause.
        num_saves = chance.randrange(self.options.saves + 1)
        await self._rest(self.pause_s * chance.random())
        await self._timed("claim", desk.claim, {303})
        beats = asyncio.create_task(self._beat(desk))
        left = self.options.tasks or math.inf
        while desk.task and left > 0 and time.monotonic() < self.end:
            await self._timed("page", desk.load, {200})
            for number in range(num_saves):
                await self._rest(self.pause_s * chance.uniform(0.5, 1.5))
                desk.fill(f"{number} {NOTE}")
                await self._timed("save", desk.save, {200})
            await self._rest(self.pause_s)
            if time.monotonic() >= self.end:
                break
            desk.fill(NOTE)
            if await self._timed("submit", desk.submit, {303}):
                self.num_submitted += 1
                left -= 1
            num_saves = self.options.saves
        if not desk.task and time.monotonic() < self.end:
            self.errors["no task left"] += 1
        beats.cancel()

    async def _beat(self, desk: Desk) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            await self._timed("beat", desk.beat, {200})

    async def _rest(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, min(seconds, self.end - time.monotonic())))

    async def _timed(
        self, what: str, call: Callable[[], Awaitable[httpx.Response]], good: set[int]
    ) -> bool:
        """Whether the answer was a good one; nothing is sent once the time is over."""
        if time.monotonic() >= self.end:
            return False
        start = time.monotonic()
        try:
            response = await call()
        except httpx.HTTPError as error:
            self.errors[f"{what}: {type(error).__name__}"] += 1
            return False
        self.seconds[what].append(time.monotonic() - start)
        if response.status_code not in good:
            self.errors[f"{what}: {response.status_code}"] += 1
        return response.status_code in good


async def _load(server: Server, everybody: list[Person], options: argparse.Namespace) -> Any:
    limits = httpx.Limits(
        max_connections=CONNECTIONS,
        max_keepalive_connections=CONNECTIONS,
        keepalive_expiry=KEEPALIVE_S,
    )
    async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=60.0) as client:
        load = Load(options, client)
        elapsed_s = await load.run(everybody)
    return load, elapsed_s


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The figures of one run on the store at ``options.address``, which is empty."""
    per_labeler = options.minutes * 60 * options.writes / options.labelers / (options.saves + 2)
    per_labeler = 2 + (options.tasks or per_labeler)
    num_tasks = math.ceil(options.labelers * per_labeler / TARGET)
    with opened(options.address) as database:
        everybody = furnish(database, options.labelers, num_tasks, TARGET)
    server = Server(options.address, folder)
    server.start()
    try:
        idle_s = server.cpu_s()
        load, elapsed_s = asyncio.run(_load(server, everybody, options))
        memory_mib, cpu_s = server.memory_mib(), server.cpu_s() - idle_s
    finally:
        server.end()
    with opened(options.address) as database, database.read() as connection:
        num_kept = sum(1 for _ in labels.ranking_rows(connection, everybody[0].project))
        broken = audit.verify(connection)
    counts = {what: len(seconds) for what, seconds in load.seconds.items()}
    num_writes = sum(counts.get(what, 0) for what in ("claim", "save", "submit"))
    found: dict[str, Any] = {
        "labelers": options.labelers,
        "minutes": round(elapsed_s / 60, 2),
        "requests": counts,
        "requests_per_s": round(sum(counts.values()) / elapsed_s, 1),
        "writes_per_s": round(num_writes / elapsed_s, 1),
        **{what: percentiles(seconds) for what, seconds in load.seconds.items()},
        "memory_mib": round(memory_mib),
        "cores": round(cpu_s / elapsed_s, 2),
        "errors": dict(load.errors),
        "submitted": load.num_submitted,
        "lost": load.num_submitted - num_kept,
        "audit_broken": int(broken is not None),
    }
    slow = [w for w, most in TARGETS_MS.items() if w in found and found[w]["p95_ms"] > most]
    return found | {"over_target": slow}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("address", help="an empty store: a path, or a URL of PostgreSQL")
    parser.add_argument("--labelers", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--writes", type=float, default=37.0, help="per second, of all labelers")
    parser.add_argument("--saves", type=int, default=20, help="drafts of a task")
    parser.add_argument(
        "--tasks", type=int, default=0, help="whoever has done so many stops (default: nobody)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="five labelers, one task each: does it run?"
    )
    options = parser.parse_args(arguments)
    if options.quick:
        options.labelers, options.writes, options.saves, options.tasks = 5, 20.0, 3, 1
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options, Path(folder))
    print(json.dumps(found))
    return int(bool(found["errors"] or found["lost"] or found["audit_broken"]))


if __name__ == "__main__":
    sys.exit(main())
