"""Many labelers at once on one store: are tasks given out twice, over their target, or lost?

    python benchmarks/store_races.py labels.db --threads 64
    python benchmarks/store_races.py postgresql+psycopg://user@host/name --processes 16

Each labeler claims and submits until it has done ``--tasks`` or nothing is left, as fast as it can;
one claim in ``--forget`` is given back, one submission in ``--repeat`` is sent twice. Prints a
line of JSON: counts of what must not be (all have to be 0), pairs of claim and submission per
second, and how long the slower ones took. Exit code 1 if anything was done twice.

On SQLite there is one process, with threads; on PostgreSQL every process has a store of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import sys
import threading
import time
from typing import Any

from sqlalchemy import func, select

from heedful.records import Completion, Prompt
from heedful.store import audit, people, pools, projects, tasks
from heedful.store.answers import LabelSchema, RankingAnswer
from heedful.store.database import Database, open_database
from heedful.store.tables import assignments, rankings, submissions
from heedful.store.tables import tasks as task_table

START_S = 120.0  # by then every process has opened the store

# A submission of about 1.5 kB.
ANSWER = RankingAnswer((1, 2, 2, 4), (None,) * 4, notes="x" * 1200)


def furnish(database: Database, num_labelers: int, num_tasks: int, target: int) -> int:
    """The number of a new project with labelers and ranking tasks in it."""

    def project(connection: Any) -> projects.Project:
        admin = people.add_user(connection, "a@x", "A", "admin", None, actor=None, now=0.0).id
        settings = projects.Settings(
            overlap_fraction=1.0, overlap_n=target, gold_fraction=0, drift_fraction=0, lease_s=1e9
        )
        return projects.create(
            connection,
            "races",
            seed="races",
            settings=settings,
            schema=LabelSchema(mode="fast"),
            actor=admin,
            now=0.0,
        )

    made = database.write(project)
    for start in range(0, num_labelers, 200):
        many = range(start, min(start + 200, num_labelers))
        database.write(lambda c, many=many: [_add_labeler(c, made.id, n) for n in many])
    for start in range(0, num_tasks, 200):
        some = range(start, min(start + 200, num_tasks))
        database.write(lambda c, some=some: [_add_task(c, made, n) for n in some])
    return made.id


def _add_labeler(connection: Any, project: int, number: int) -> None:
    name = f"l{number}@x"
    account = people.add_user(connection, name, "L", "labeler", None, actor=None, now=0.0)
    people.join(connection, project, account.id, actor=None, now=0.0)


def _add_task(connection: Any, project: projects.Project, number: int) -> None:
    prompt = Prompt(id=f"p{number}", text=f"Prompt {number}")
    numbers = projects.add_prompts(connection, project.id, [prompt], actor=1, now=0.0)
    outputs = [Completion(x, f"Output {x}") for x in "abcd"]
    made = projects.add_completions(connection, numbers[prompt.id], outputs)
    pools.add_ranking_task(connection, project, numbers[prompt.id], made)


def work(
    database: Database, project: int, labelers: list[int], options: argparse.Namespace
) -> list[float]:
    """Seconds of each claim and submission of these labelers, who take turns."""
    seconds: list[float] = []
    done = dict.fromkeys(labelers, 0)
    number = 0
    while done:
        for labeler in list(done):
            start = time.monotonic()
            found = database.write(
                lambda c, who=labeler: tasks.claim(c, project, who, "ranking", now=1.0)
            )
            if found is None or done[labeler] == options.tasks:
                del done[labeler]
                continue
            done[labeler] += 1
            number += 1
            if number % options.forget == 0:
                database.write(lambda c, id=found.id, who=labeler: tasks.skip(c, id, who, now=1.0))
                continue
            for _ in range(2 if number % options.repeat == 0 else 1):
                database.write(
                    lambda c, id=found.id, who=labeler: tasks.submit(
                        c, id, who, ANSWER, key=id, now=2.0
                    )
                )
            seconds.append(time.monotonic() - start)
    return seconds


def count(database: Database, target: int) -> dict[str, int]:
    """What must not be, in numbers; and how many submissions there are."""
    with database.read() as connection:
        per_task = (
            select(func.count().label("n"))
            .where(assignments.c.state == "submitted", assignments.c.is_extra.is_(False))
            .group_by(assignments.c.task_id)
            .subquery()
        )
        over = select(func.count()).select_from(per_task).where(per_task.c.n > target)
        pairs = (
            select(func.count().label("n"))
            .select_from(submissions)
            .join(assignments, assignments.c.id == submissions.c.assignment_id)
            .group_by(assignments.c.task_id, assignments.c.labeler_id)
            .subquery()
        )
        twice = select(func.count()).select_from(pairs).where(pairs.c.n > 1)
        open_slots = select(func.sum(task_table.c.open_slots))
        held = select(func.count()).where(assignments.c.state.in_(["leased", "submitted"]))
        num_tasks = select(func.count()).select_from(task_table)
        number = {
            name: connection.execute(query).scalar_one() or 0
            for name, query in {
                "over": over,
                "twice": twice,
                "open": open_slots,
                "held": held,
                "tasks": num_tasks,
                "submissions": select(func.count()).select_from(submissions),
                "rankings": select(func.count()).select_from(rankings),
            }.items()
        }
        broken = audit.verify(connection)
    return {
        "tasks_over_target": number["over"],
        "answers_twice": number["twice"],
        "slots_lost": number["tasks"] * target - number["open"] - number["held"],
        "half_written": number["submissions"] - number["rankings"],
        "audit_broken": int(broken is not None),
        "submissions": number["submissions"],
    }


def _process(
    address: str,
    project: int,
    labelers: list[int],
    options: argparse.Namespace,
    times: Any,
    ready: Any,
) -> None:
    database = open_database(address, now=0.0)
    ready.wait()
    try:
        times.put(work(database, project, labelers, options))
    except BaseException:
        times.put(None)  # nobody waits for what does not come
        raise
    finally:
        database.close()


def race(options: argparse.Namespace) -> dict[str, Any]:
    """The counts and times of one race on the store at ``options.address``, which is empty."""
    database = open_database(options.address, now=0.0)
    num_tasks = math.ceil(options.labelers * options.tasks / options.target)
    project = furnish(database, options.labelers, num_tasks, options.target)
    with database.read() as connection:
        labelers = [m.user_id for m in people.members(connection, project)]
    start = time.monotonic()
    seconds: list[float] = []
    if options.processes > 1:
        context = multiprocessing.get_context("spawn")
        times, ready = context.Queue(), context.Barrier(options.processes + 1, timeout=START_S)
        started = [
            context.Process(
                target=_process,
                args=(
                    options.address,
                    project,
                    labelers[n :: options.processes],
                    options,
                    times,
                    ready,
                ),
            )
            for n in range(options.processes)
        ]
        for process in started:
            process.start()
        ready.wait()
        start = time.monotonic()
        for _ in started:
            if (part := times.get()) is None:
                raise SystemExit("a process of the race has failed: its error stands above")
            seconds += part
        for process in started:
            process.join()
    else:
        threads = [
            threading.Thread(
                target=lambda part: seconds.extend(work(database, project, part, options)),
                args=(labelers[n :: options.threads],),
            )
            for n in range(options.threads)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    elapsed_s = time.monotonic() - start
    found: dict[str, Any] = count(database, options.target)
    database.close()
    seconds.sort()
    found["pairs_per_s"] = round(len(seconds) / elapsed_s, 1)
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)):
        found[f"{name}_ms"] = round(
            1000 * seconds[min(int(share * len(seconds)), len(seconds) - 1)]
        )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("address", help="an empty store: a path, or a URL of PostgreSQL")
    parser.add_argument("--labelers", type=int, default=1000)
    parser.add_argument("--tasks", type=int, default=12, help="tasks of a labeler")
    parser.add_argument("--target", type=int, default=3, help="labelers of a task")
    parser.add_argument("--threads", type=int, default=64)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--forget", type=int, default=50, help="every so-many-th is given back")
    parser.add_argument("--repeat", type=int, default=10, help="every so-many-th is sent twice")
    found = race(parser.parse_args())
    print(json.dumps(found))
    wrong = ("tasks_over_target", "answers_twice", "slots_lost", "half_written", "audit_broken")
    return int(any(found[name] for name in wrong))


if __name__ == "__main__":
    sys.exit(main())
