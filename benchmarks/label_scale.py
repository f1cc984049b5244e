"""A store with 100,000 prompts and 1,000,000 ratings: how long do pages and saves take on it?

    python benchmarks/label_scale.py labels.db
    python benchmarks/label_scale.py postgresql+psycopg://user@host/name

Fills an empty store by bulk inserts (some minutes), or takes one that it has filled before; then
starts ``heed label serve`` on it. Labelers work (page, draft, submit and next, with ``--pause``
seconds before each of the last two) while a researcher goes from page to page, so every figure is
one under load: first while the figures of all labelers are being computed for the first time, then
as they are kept up to date.

Prints a line of JSON: p50, p95, p99 and the slowest of every kind of request in ms (under "first"
those before the first figures), the seconds until these stood on the page, how long the disk of
this folder took to flush 4 kB meanwhile, the server's memory and processor time. Exit code 1 if a
request failed. The targets (p95): 300 ms for a page, 200 ms for a save.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import httpx
from label_scale_store import fill, people_of
from label_service import KEEPALIVE_S, NOTE, Desk, Person, Server, opened, percentiles

PAGE_MS, SAVE_MS = 300, 200  # p95
SAVES = ("save", "claim", "submit")
# What the researcher looks at, time and again.
PAGES = {
    "queue": "",
    "labelers": "/labelers",
    "disputes": "/tasks",
    "quarantine": "/quarantine",
    "prompt labels": "/prompts",
    "survey": "/survey",
}
COMPUTING = "The figures are being computed"
LATE_S = 600  # so long after its time a visit still waits for them


class Visit:
    """What labelers and a researcher do for a while, and how long the server took for it."""

    def __init__(self, client: httpx.AsyncClient, staff: Person, pause_s: float):
        self.client, self.staff, self.pause_s = client, staff, pause_s
        # While the first figures are being computed, and from then on.
        self.first: dict[str, list[float]] = defaultdict(list)
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.flushes: list[float] = []
        self.errors: Counter[str] = Counter()
        self.num_submitted = 0
        self.end = 0.0
        self.figures_s: float | None = None

    async def run(self, seconds: float, desks: list[Desk]) -> None:
        """Lets everybody work for some seconds, and on until the figures have stood on the page."""
        self.begun = time.monotonic()
        self.end = self.begun + seconds
        await asyncio.gather(
            self._research(),
            self._flush(),
            *(self._label(one, random.Random(n)) for n, one in enumerate(desks)),
        )

    def _is_over(self) -> bool:
        late_s = time.monotonic() - self.end
        return late_s > (0 if self.figures_s is not None else LATE_S)

    async def _label(self, desk: Desk, chance: random.Random) -> None:
        await asyncio.sleep(2 * self.pause_s * chance.random())
        while not self._is_over():
            await self._timed(
                "own page", self._get(desk.person, f"/projects/{desk.person.project}")
            )
            if not desk.task:
                await self._timed("claim", desk.claim(), 303)
            if not desk.task:
                self.errors["no task left"] += 1
                return
            await self._timed("task", desk.load())
            desk.fill(NOTE)
            await asyncio.sleep(self.pause_s * chance.uniform(0.5, 1.5))
            await self._timed("save", desk.save())
            await asyncio.sleep(self.pause_s * chance.uniform(0.5, 1.5))
            response = await self._timed("submit", desk.submit(), 303)
            self.num_submitted += response.status_code == 303

    async def _research(self) -> None:
        project = f"/admin/projects/{self.staff.project}"
        while not self._is_over():
            for name, path in PAGES.items():
                await asyncio.sleep(self.pause_s / 5)
                response = await self._timed(name, self._get(self.staff, project + path))
                if name == "labelers" and self.figures_s is None and COMPUTING not in response.text:
                    self.figures_s = time.monotonic() - self.begun
            await self._timed("record", self._get(self.staff, "/admin/audit"))
            await asyncio.sleep(self.pause_s / 5)
            await self._timed(
                "record of one", self._get(self.staff, "/admin/audit?object=project/1")
            )

    async def _flush(self) -> None:
        """How long this disk takes to keep 4 kB, which is in every save."""
        with tempfile.TemporaryFile(dir=Path.cwd()) as file:
            while not self._is_over():
                await asyncio.sleep(0.5)
                start = time.monotonic()
                file.write(b"x" * 4096)
                file.flush()
                await asyncio.to_thread(os.fsync, file.fileno())
                self.flushes.append(time.monotonic() - start)

    async def _get(self, person: Person, path: str) -> httpx.Response:
        headers = {"Cookie": f"heedful={person.cookie}", "Sec-Fetch-Site": "same-origin"}
        return await self.client.get(path, headers=headers)

    async def _timed(self, what: str, call: Any, good: int = 200) -> httpx.Response:
        start = time.monotonic()
        response = await call
        phase = self.first if self.figures_s is None else self.seconds
        phase[what].append(time.monotonic() - start)
        if response.status_code != good:
            self.errors[f"{what}: {response.status_code}"] += 1
        return response


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The figures of one run."""
    with opened(options.address) as database:
        start = time.monotonic()
        counts = fill(database, options.prompts, options.ratings, options.labelers)
        fill_s = time.monotonic() - start
        staff, labelers = people_of(database)
    server = Server(options.address, folder)
    start = time.monotonic()
    server.start()
    start_s = time.monotonic() - start
    try:
        visit = asyncio.run(_visit(server, staff, labelers[: options.clients], options))
        memory_mib, cpu_s = server.memory_mib(), server.cpu_s()
        visit_s = time.monotonic() - visit.begun
    finally:
        server.end()
    found = {
        **counts,
        "fill_s": round(fill_s, 1),
        "start_s": round(start_s, 2),
        "figures_s": None if visit.figures_s is None else round(visit.figures_s, 1),
        "memory_mib": round(memory_mib),
        "cores": round(cpu_s / visit_s, 2),
        "flush": percentiles(visit.flushes),
        "submitted": visit.num_submitted,
        "requests": {what: len(seconds) for what, seconds in visit.seconds.items()},
        **_times(visit.seconds),
        "first": _times(visit.first),
        "errors": dict(visit.errors),
    }
    return found | {"over_target": _slow(found), "over_target_first": _slow(found["first"])}


def _times(seconds: dict[str, list[float]]) -> dict[str, Any]:
    return {what: percentiles(times) for what, times in seconds.items()}


def _slow(times: dict[str, Any]) -> list[str]:
    """The kinds of requests whose p95 is over the target."""
    limits = dict.fromkeys(("own page", "task", "record", "record of one", *PAGES), PAGE_MS)
    limits |= dict.fromkeys(SAVES, SAVE_MS)
    return [w for w, most in limits.items() if w in times and times[w]["p95_ms"] > most]


async def _visit(
    server: Server, staff: Person, labelers: list[Person], options: argparse.Namespace
) -> Visit:
    limits = httpx.Limits(keepalive_expiry=KEEPALIVE_S)
    async with httpx.AsyncClient(base_url=server.url, timeout=120.0, limits=limits) as client:
        visit = Visit(client, staff, options.pause)
        await visit.run(options.seconds, [Desk(one, client) for one in labelers])
    return visit


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("address", help="a store, empty or filled by this: a path, or a URL")
    parser.add_argument("--prompts", type=int, default=100_000)
    parser.add_argument("--ratings", type=int, default=1_000_000)
    parser.add_argument("--labelers", type=int, default=36)
    parser.add_argument("--clients", type=int, default=24, help="labelers at work at once")
    parser.add_argument("--pause", type=float, default=5.0, help="seconds of thought")
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--quick", action="store_true", help="600 prompts: does it run?")
    options = parser.parse_args(arguments)
    if options.quick:
        # The pause bounds what a fast machine takes of the open tasks: at most 10 a second.
        options.prompts, options.ratings, options.labelers = 600, 2400, 6
        options.seconds, options.clients, options.pause = 3.0, 3, 0.3
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options, Path(folder))
    print(json.dumps(found))
    return int(bool(found["errors"]))


if __name__ == "__main__":
    sys.exit(main())
