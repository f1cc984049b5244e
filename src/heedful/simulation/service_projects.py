"""Projects of the miniature world in a store: set up for labelers who come over HTTP, and read out.

What researchers would do on their pages is done here by the store's own functions, while no service
has the database: projects, imports, invitations, the screening test, grades and decisions.
"""

from __future__ import annotations

import hashlib
import random
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from heedful.records import Cohort, Completion, Prompt
from heedful.simulation.labelers import (
    LabelerPool,
    SimulatedLabeler,
    draw_candidates,
    pairwise_agreement,
    screening_truth,
    standing,
)
from heedful.simulation.prompts import prompts
from heedful.simulation.responses import Slips, compose, ideal_response
from heedful.simulation.service_labelers import Account
from heedful.simulation.tasks import Task
from heedful.simulation.utility import assess
from heedful.simulation.world import World
from heedful.store import people, pools, projects, screening
from heedful.store.answers import LabelSchema
from heedful.store.database import Database

INVITATION_S = 72 * 3600.0
PIECE = 200
GUIDELINE = "Rank what follows the instruction first; false facts and insults make an output worse."
# Soft cut-offs with so few items tell little of one candidate; they only order them.
NUM_FLAGS, NUM_RANKINGS, NUM_DEMONSTRATIONS = 16, 12, 5


@dataclass(frozen=True, slots=True)
class Job:
    """What one project is for. Each task goes to ``labels_per_task`` labelers of a cohort.

    Where that is one, a share ``overlap`` of the tasks goes to three, to measure agreement.
    """

    name: str
    kind: Literal["ranking", "demonstration"]
    items: Sequence[tuple[Prompt, tuple[Completion, ...]]]
    labels_per_task: int = 1
    overlap: float = 0.0
    has_heldout: bool = False

    def settings(self) -> projects.Settings:
        """The settings of its project: no gold and no drift tasks, which no training data is."""
        is_shared = self.labels_per_task > 1 or self.has_heldout
        return projects.Settings(
            overlap_fraction=1.0 if is_shared else self.overlap,
            overlap_n=self.labels_per_task if is_shared else 3,
            heldout_n=self.labels_per_task if self.has_heldout else 0,
            gold_fraction=0.0,
            drift_fraction=0.0,
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What was set up: project numbers by name, and how everybody gets in."""

    projects: dict[str, int]
    candidates: list[Account]
    heldout: list[Account]
    test_tasks: dict[str, tuple[str, Task]]

    def to_row(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Plan:
        tests = {text: (name, Task(**task)) for text, (name, task) in row["test_tasks"].items()}
        candidates, heldout = (
            [Account(**one) for one in row[name]] for name in ("candidates", "heldout")
        )
        return cls(dict(row["projects"]), candidates, heldout, tests)


def set_up(database: Database, world: World, pool: LabelerPool, jobs: Sequence[Job]) -> Plan:
    """A plan for a fresh store: the projects of the jobs with their tasks, the test, invitations.

    The test is in the first project; held-out labelers are invited into those that have them.
    """
    now = time.time()

    def begin(connection: Any) -> tuple[int, list[projects.Project]]:
        admin = people.add_user(
            connection, "researcher@example.org", "Researcher", "admin", None, actor=None, now=now
        )
        made = [
            projects.create(
                connection,
                job.name,
                seed=secrets.token_hex(16),
                settings=job.settings(),
                guideline=GUIDELINE,
                schema=LabelSchema(mode="fast"),
                actor=admin.id,
                now=now,
            )
            for job in jobs
        ]
        return admin.id, made

    admin, made = database.write(begin)
    for job, project in zip(jobs, made, strict=True):
        _import(database, job, project, admin, now)
    tests = database.write(lambda c: _add_test(c, world, made[0].id, admin, now))
    names = [one.id for one in draw_candidates(world.seed, len(pool.screening))]
    home = next((p for job, p in zip(jobs, made, strict=True) if job.has_heldout), None)
    heldout = [one.id for one in pool.heldout] if home else []

    def invite(connection: Any) -> tuple[list[Account], list[Account]]:
        first = [_invite(connection, name, made[0].id, "train", admin, now) for name in names]
        second = [
            _invite(connection, name, home.id, "heldout", admin, now) for name in heldout if home
        ]
        return first, second

    candidates, others = database.write(invite)
    return Plan({one.name: one.id for one in made}, candidates, others, tests)


def _import(
    database: Database, job: Job, project: projects.Project, admin: int, now: float
) -> None:
    for start in range(0, len(job.items), PIECE):
        piece = job.items[start : start + PIECE]

        def add(connection: Any, piece: Any = piece) -> None:
            given = [prompt for prompt, _ in piece]
            numbers = projects.add_prompts(connection, project.id, given, actor=admin, now=now)
            for prompt, outputs in piece:
                number = numbers[prompt.id]
                if job.kind == "demonstration":
                    pools.add_demonstration_task(connection, project, number)
                    continue
                completions = projects.add_completions(connection, number, list(outputs))
                pools.add_ranking_task(connection, project, number, completions)

        database.write(add)


def _invite(
    connection: Any, name: str, project_id: int, cohort: Cohort, admin: int, now: float
) -> Account:
    token, email = secrets.token_urlsafe(32), f"{name}@example.org"
    people.invite(
        connection,
        email,
        "labeler",
        token_sha256=hashlib.sha256(token.encode()).hexdigest(),
        project_id=project_id,
        cohort=cohort,
        expires_at=now + INVITATION_S,
        actor=admin,
        now=now,
    )
    return Account(name, email, token, secrets.token_urlsafe(16))


# Screening


def _add_test(
    connection: Any, world: World, project_id: int, admin: int, now: float
) -> dict[str, tuple[str, Task]]:
    """{prompt: (id, task)} of the test's items, which are added: the paper's four criteria."""
    rng = random.Random(f"{world.seed}-service-screening")
    wanted = NUM_FLAGS + NUM_RANKINGS + NUM_DEMONSTRATIONS
    pairs = {p.text: (p.id, t) for p, t in prompts(world, 3 * wanted, "train", rng, prefix="test")}
    texts = iter(dict(pairs))
    used: dict[str, tuple[str, Task]] = {}

    def add(kind: Any, content: dict[str, Any], truth: Any = None) -> None:
        screening.add_item(connection, project_id, kind, content, truth, actor=admin, now=now)

    for number in range(NUM_FLAGS):
        text = next(t for t in texts if pairs[t][1].language == "en")
        used[text] = pairs[text]
        task = pairs[text][1]
        output = compose(world, task, rng, Slips(sloppy=number % 2 == 0))
        flag = assess(world, task, output).flags["inappropriate"]
        content = {"prompt": text, "output": output, "questions": ["inappropriate"]}
        add("flags", content, {"inappropriate": bool(flag)})
    for _ in range(NUM_RANKINGS):
        text = next(texts)
        used[text] = pairs[text]
        task = pairs[text][1]
        outputs = _mixed(world, task, rng)
        add("ranking", {"prompt": text, "outputs": outputs}, screening_truth(world, task, outputs))
    for _ in range(NUM_DEMONSTRATIONS):
        text = next(texts)
        used[text] = pairs[text]
        add("demonstration", {"prompt": text})
    question = "For what topics or groups are you comfortable identifying sensitive speech?"
    add("topics", {"question": question})
    return used


def _mixed(world: World, task: Task, rng: random.Random) -> list[str]:
    """Two to four different outputs for a task, some with mistakes."""
    found = {ideal_response(world, task, rng): None}
    while len(found) < 2:
        for _ in range(3):
            slips = Slips(*(rng.random() < 0.5 for _ in range(4)))
            found[compose(world, task, rng, slips)] = None
    return rng.sample(list(found), len(found))


def decide(
    database: Database, world: World, plan: Plan, num_hired: int, jobs: Sequence[Job]
) -> list[str]:
    """The candidates taken on, the best first: graded and compared as people would be.

    They join the other projects too. The cut-offs are soft: they order the candidates.
    """
    first = plan.projects[jobs[0].name]
    now = time.time()

    def settle(connection: Any) -> list[str]:
        admin = people.all_users(connection, role="admin")[0].id
        found = {}
        for account in plan.candidates:
            user = people.user_by_email(connection, account.email)
            assert user is not None  # everybody has accepted
            results = _results(connection, world, plan, first, user.id, admin, now)
            found[account.labeler] = (user.id, results)
        ordered = sorted(found, key=lambda name: standing(found[name][1]), reverse=True)
        for place, name in enumerate(ordered):
            user_id, accept = found[name][0], place < num_hired
            screening.decide(connection, first, user_id, accept=accept, actor=admin, now=now)
            for job in jobs[1:] if accept else ():
                people.join(
                    connection,
                    plan.projects[job.name],
                    user_id,
                    state="active",
                    actor=admin,
                    now=now,
                )
        return ordered[:num_hired]

    return database.write(settle)


def _results(
    connection: Any,
    world: World,
    plan: Plan,
    project_id: int,
    user_id: int,
    admin: int,
    now: float,
) -> dict[str, float]:
    """The three measures of a candidate, after a researcher has graded the demonstrations."""
    right = num_flags = same = strict = 0
    scores = []
    for one in screening.answers(connection, project_id, user_id=user_id):
        if one.kind == "flags":
            right += sum(one.answer[name] == one.truth[name] for name in one.truth)
            num_flags += len(one.truth)
        elif one.kind == "ranking":
            more = pairwise_agreement([one.answer, one.truth])
            same, strict = same + more[0], strict + more[1]
        elif one.kind == "demonstration":
            task = plan.test_tasks[one.content["prompt"]][1]
            quality = 4 + 1.15 * assess(world, task, one.answer).utility
            scores.append(min(7, max(1, round(quality))))
            screening.grade(connection, one.id, admin, scores[-1], now=now)
    return {
        "flags": right / max(1, num_flags),
        "rankings": same / max(1, strict),
        "demonstrations": sum(scores) / max(1, len(scores)),
    }


def labelers_of(world: World, pool: LabelerPool) -> dict[str, SimulatedLabeler]:
    """Everybody who may come, by name."""
    candidates = draw_candidates(world.seed, len(pool.screening))
    return {one.id: one for one in (*candidates, *pool.heldout)}
