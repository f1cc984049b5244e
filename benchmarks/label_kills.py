"""The service is killed under load, again and again: is anything that it acknowledged lost?

    python benchmarks/label_kills.py labels.db
    python benchmarks/label_kills.py postgresql+psycopg://user@host/name

Labelers claim, save drafts and submit as fast as they can, while the server gets SIGKILL in the
middle of it, ``--kills`` times. After each kill the store is looked into: every submission that was
acknowledged has to be there once and whole, and the audit chain has to verify. Then the server is
started anew on the same store, and labelers send again, as they sent it, what they have no answer
to. In the end there has to be exactly one submission for each that was ever acknowledged.

Prints a line of JSON; exit code 1 if a count that has to be 0 is not. ``committed_unheard`` counts
the submissions that were kept but whose acknowledgement died with the server: the reason why the
second sending must change nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sqlite3
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from label_service import KEEPALIVE_S, NOTE, Desk, Person, Server, furnish, opened
from sqlalchemy import select

from heedful.store import audit
from heedful.store.tables import assignments, rankings, submissions

DRAFTS = 2  # before each submission
FEWEST = 40  # requests before a kill; the most are four times as many
LIMITS = httpx.Limits(keepalive_expiry=KEEPALIVE_S)
REQUEST_S = 0.02  # about the time of one, so that kills fall anywhere within


@dataclass
class Known:
    """What the labelers have sent and heard, by the note that makes each answer its own."""

    acknowledged: set[str]
    sent: set[str]
    problems: Counter[str]


class Labeler:
    """Somebody whose browser survives the server: it sends again what it has no answer to."""

    def __init__(self, person: Person, number: int, known: Known):
        self.person, self.number, self.known = person, number, known
        self.count = 0
        self.pending: Desk | None = None  # a submission without an answer

    async def work(self, client: httpx.AsyncClient) -> None:
        """Works until the server dies, or has no more tasks."""
        try:
            if self.pending is not None:
                self.pending.client = client
                await self._submit(self.pending)
            desk = Desk(self.person, client)
            response = await desk.claim()
            while desk.task:
                response = await desk.load()
                self._expect(response, 200, "page")
                self.count += 1
                for number in range(DRAFTS):
                    desk.fill(f"draft {number} {NOTE}")
                    self._expect(await desk.save(), 200, "save")
                desk.fill(f"labeler {self.number}, answer {self.count}: {NOTE}")
                self.pending = desk
                await self._submit(desk)
            self._expect(response, 303, "claim")
        except httpx.TransportError:
            return  # killed in the middle of it

    async def _submit(self, desk: Desk) -> None:
        note = desk.form["notes"]
        self.known.sent.add(note)
        response = await desk.submit()
        if response.status_code == 409:  # a draft was kept and not acknowledged: as it says there
            response = await desk.submit()
        if self._expect(response, 303, "submit"):
            self.known.acknowledged.add(note)
        self.pending = None

    def _expect(self, response: httpx.Response, status: int, what: str) -> bool:
        if response.status_code != status:
            self.known.problems[f"{what}: {response.status_code}"] += 1
        return response.status_code == status


async def _until_killed(server: Server, labelers: list[Labeler], chance: random.Random) -> None:
    """Lets everybody work, and kills the server in the middle of some request."""
    left = chance.randrange(FEWEST, 4 * FEWEST)
    enough = asyncio.Event()

    async def count(response: httpx.Response) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            enough.set()

    hooks = {"response": [count]}
    client = httpx.AsyncClient(base_url=server.url, timeout=60.0, limits=LIMITS, event_hooks=hooks)
    async with client:
        everybody = asyncio.gather(*(one.work(client) for one in labelers))
        done = asyncio.create_task(enough.wait())
        await asyncio.wait([everybody, done], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(chance.random() * REQUEST_S)
        server.end(signal.SIGKILL)
        await everybody


def look(address: str, known: Known) -> dict[str, int]:
    """What must not be in the store after a kill, in numbers; and what nobody has heard of."""
    with opened(address) as database, database.read() as connection:
        notes = Counter(connection.execute(select(rankings.c.notes)).scalars())
        answered = Counter(connection.execute(select(submissions.c.assignment_id)).scalars())
        in_state = select(assignments.c.id).where(assignments.c.state == "submitted")
        submitted = set(connection.execute(in_state).scalars())
        broken = audit.verify(connection)
    return {
        "lost": len(known.acknowledged - set(notes)),
        "twice": sum(count - 1 for count in [*notes.values(), *answered.values()]),
        "half_written": abs(notes.total() - answered.total()) + len(submitted ^ set(answered)),
        "unknown": len(set(notes) - known.sent),
        "audit_broken": int(broken is not None),
        "committed_unheard": len(set(notes) - known.acknowledged),
        "submissions": answered.total(),
    }


def is_whole(address: str) -> bool:
    """Whether SQLite finds its file in order; PostgreSQL looks after itself."""
    if "://" in address:
        return True
    connection = sqlite3.connect(address)
    try:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        connection.close()


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The counts over all kills on the store at ``options.address``, which is empty."""
    with opened(options.address) as database:
        everybody = furnish(database, options.labelers, options.tasks, target=3)
    known = Known(set(), set(), Counter())
    labelers = [Labeler(person, number, known) for number, person in enumerate(everybody)]
    server, chance = Server(options.address, folder), random.Random(options.seed)
    total: Counter[str] = Counter()
    unheard = 0
    for _ in range(options.kills):
        server.start()
        try:
            asyncio.run(_until_killed(server, labelers, chance))
        finally:
            server.end(signal.SIGKILL)
        found = look(options.address, known)
        unheard += found.pop("committed_unheard")
        total.update({name: found[name] for name in MUST_BE_ZERO})
        total["not_whole"] += int(not is_whole(options.address))
    server.start()
    try:
        # Whoever has something without an answer sends it again; then nothing is left to hear.
        asyncio.run(_finish(server, labelers))
    finally:
        server.end()
    found = look(options.address, known)
    total.update({name: found[name] for name in MUST_BE_ZERO})
    total["extra"] = found["submissions"] - len(known.acknowledged)
    return {
        "kills": options.kills,
        "acknowledged": len(known.acknowledged),
        "committed_unheard": unheard,
        **{name: total[name] for name in (*MUST_BE_ZERO, "not_whole", "extra")},
        "problems": dict(known.problems),
    }


MUST_BE_ZERO = ("lost", "twice", "half_written", "unknown", "audit_broken")


async def _finish(server: Server, labelers: list[Labeler]) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=60.0, limits=LIMITS) as client:
        for one in labelers:
            if one.pending is not None:
                one.pending.client = client
                await one._submit(one.pending)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("address", help="an empty store: a path, or a URL of PostgreSQL")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--labelers", type=int, default=16)
    parser.add_argument("--tasks", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="one kill: does it run?")
    options = parser.parse_args(arguments)
    if options.quick:
        options.kills, options.labelers, options.tasks = 1, 4, 80
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options, Path(folder))
    print(json.dumps(found))
    wrong = (*MUST_BE_ZERO, "not_whole", "extra", "problems")
    return int(any(found[name] for name in wrong))


if __name__ == "__main__":
    sys.exit(main())
