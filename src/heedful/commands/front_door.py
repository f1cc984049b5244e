"""Simulated labelers through the labeling service: a real one, in a process of its own.

    set up ─► service: invitations, the test ─► decisions ─► service: the work ─► snapshots

Everything is in ``state/``: a run that was killed goes on where it was, one with other settings
begins anew.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from heedful.commands.label import run_label
from heedful.commands.snapshot import run_snapshot
from heedful.commands.worker import end_with
from heedful.config import SnapshotConfig
from heedful.errors import TrainingError
from heedful.metrics import replacing
from heedful.simulation.labelers import LabelerPool
from heedful.simulation.service_labelers import Account, Knowledge, Person
from heedful.simulation.service_projects import Job, Plan, decide, labelers_of, set_up
from heedful.store.database import open_database

HOST = "127.0.0.1"
START_S, STOP_S, POLL_S = 120.0, 20.0, 0.1


@dataclass(frozen=True, slots=True)
class House:
    """What one run of the front door works with; ``state`` is its folder."""

    state: Path
    pool: LabelerPool
    knowledge: Knowledge
    jobs: Sequence[Job]

    @property
    def database(self) -> Path:
        return self.state / "labels.db"


def through_service(house: House, note: Callable[[int, int], None]) -> dict[str, Path]:
    """The snapshot directory of every job, after simulated labelers have done all of its tasks.

    ``note`` is called with the tasks that are done and how many there are.
    """
    house.state.mkdir(parents=True, exist_ok=True)
    plan = _planned(house)
    hired = _hired(house, plan)
    with _serving(house.database) as url:
        people = [*(one for one in plan.candidates if one.labeler in hired), *plan.heldout]
        _work(house, plan, [_person(house, url, one) for one in people], note)
    found = {}
    for job in house.jobs:
        found[job.name] = house.state / "snapshots" / job.name
        run_snapshot(
            SnapshotConfig(
                run_dir=str(found[job.name]),
                database=str(house.database),
                project=job.name,
                heldout=job.has_heldout,
            )
        )
    return found


def _planned(house: House) -> Plan:
    """The plan of a store that is set up; one that a kill has left half done is set up anew."""
    file = house.state / "plan.json"
    if file.is_file():
        return Plan.from_row(json.loads(file.read_text(encoding="utf-8")))
    for old in house.state.glob("labels.db*"):
        old.unlink()
    database = open_database(house.database, now=time.time())
    try:
        plan = set_up(database, house.knowledge.world, house.pool, house.jobs)
    finally:
        database.close()
    with replacing(file) as partial:
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(plan.to_row()), encoding="utf-8")
    return plan


def _hired(house: House, plan: Plan) -> list[str]:
    """The candidates taken on, after all of them have taken the test."""
    file = house.state / "hired.json"
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    first = plan.projects[house.jobs[0].name]
    knowledge = Knowledge(
        house.knowledge.world,
        plan.test_tasks,
        noise_scale=house.knowledge.noise_scale,
        seed=house.knowledge.seed,
    )
    with _serving(house.database) as url:

        def be_screened(account: Account) -> None:
            with closing(_person(house, url, account, knowledge)) as person:
                person.enter()
                person.take_test(first)

        with ThreadPoolExecutor(len(plan.candidates)) as executor:
            list(executor.map(be_screened, plan.candidates))
    database = open_database(house.database, now=time.time())
    try:
        world, num = house.knowledge.world, len(house.pool.train)
        hired = decide(database, world, plan, num, house.jobs)
    finally:
        database.close()
    with replacing(file) as partial:
        partial.write_text(json.dumps(hired), encoding="utf-8")
    print(
        f"hired {len(hired)} of {len(plan.candidates)} candidates: {', '.join(hired)}", flush=True
    )
    return hired


def _person(house: House, url: str, account: Account, knowledge: Knowledge | None = None) -> Person:
    labeler = labelers_of(house.knowledge.world, house.pool)[account.labeler]
    return Person(url, account, labeler, knowledge or house.knowledge)


def _work(
    house: House, plan: Plan, people: Sequence[Person], note: Callable[[int, int], None]
) -> None:
    """Lets everybody work side by side until no task is left for anybody."""
    total = sum(
        len(job.items) * job.labels_per_task * (2 if job.has_heldout else 1) for job in house.jobs
    )
    lock = threading.Lock()
    num_done = 0

    def count() -> None:
        nonlocal num_done
        with lock:
            num_done += 1
            note(min(num_done, total), total)

    def work(person: Person) -> int:
        mine = [job for job in house.jobs if person.labeler.cohort == "train" or job.has_heldout]
        with closing(person):
            person.enter()
            return sum(person.label(plan.projects[job.name], job.kind, count) for job in mine)

    with ThreadPoolExecutor(len(people)) as executor:
        done = list(executor.map(work, people))
    for person, number in zip(people, done, strict=True):
        print(f"{person.labeler.id}: {number} tasks", flush=True)


# The service


@contextmanager
def _serving(database: Path) -> Iterator[str]:
    """The address of a service on this database, in a process of its own that ends with this."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_serve, args=(str(database), port, os.getpid()))
    process.start()
    url = f"http://{HOST}:{port}"
    try:
        deadline = time.monotonic() + START_S
        while not _answers(url):
            if not process.is_alive() or time.monotonic() > deadline:
                raise TrainingError(f"the labeling service did not start (port {port}): see above")
            time.sleep(POLL_S)
        yield url
    finally:
        process.terminate()
        process.join(STOP_S)
        if process.is_alive():
            process.kill()
            process.join()


def _serve(database: str, port: int, parent: int) -> None:
    end_with(parent)
    snapshots = str(Path(database).with_name("served"))
    words = ["--database", database, "--host", HOST, "--port", str(port), "--snapshots", snapshots]
    run_label(["serve", *words])


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
