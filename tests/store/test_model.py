"""Any order of claims, heartbeats, drafts, answers, repetitions, skips, undos, expiries, changes of
overlap and erasures does to both databases what it does to a model made of plain values.

An ordinary test run takes two long walks, which do all of it many times, and lets hypothesis look
for a few orders of its own; HEEDFUL_EXAMPLES sets how many.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from heedful.records import Prompt
from heedful.store import audit, erasure, labels, people, pools, projects, tasks
from heedful.store.answers import DemonstrationAnswer
from heedful.store.problems import Conflict, DraftConflict, NotFound
from heedful.store.tables import assignments
from heedful.store.tables import tasks as task_table

NUM_EXAMPLES = int(os.environ.get("HEEDFUL_EXAMPLES", "4"))
WALK_STEPS, WALKS = 300, (0, 1)
NUM_TASKS, LEASE_S, UNDO_S, RESTORE_S = 12, 20.0, 10.0, 50.0
LABELERS = st.integers(0, 3)  # the last is held out
CHOICES = st.integers(0, 999)
SETTINGS = projects.Settings(
    overlap_fraction=0.0,
    gold_fraction=0.0,
    drift_fraction=0.0,
    lease_s=LEASE_S,
    undo_s=UNDO_S,
    restore_s=RESTORE_S,
)


@dataclass
class Assigned:
    """The model of an assignment."""

    id: str
    task: int
    labeler: int
    claimed: int
    until: float
    state: str = "leased"
    extra: bool = False
    ended: float = 0.0
    revision: int = 0
    draft: Any = None
    key: str = ""


class Work(RuleBasedStateMachine):
    """The store beside the model; each order of rules has a project of its own."""

    number = 0

    def __init__(self, database):
        super().__init__()
        Work.number += 1
        self.database = database
        self.now = 1000.0
        self.targets = (1, 0)  # training labelers, held-out labelers
        self.held: list[Assigned] = []
        self.withdrawn: dict[str, tuple[Assigned, str]] = {}
        self.num_claims = self.num_keys = 0
        self.database.write(self.furnish)

    def furnish(self, connection):
        name = f"{Work.number}-{id(self)}"
        self.admin = people.add_user(
            connection, f"admin{name}", "A", "admin", None, actor=None, now=self.now
        ).id
        self.project = projects.create(
            connection, name, seed=name, settings=SETTINGS, actor=self.admin, now=self.now
        )
        self.people: list[int | None] = []
        for labeler in range(4):
            account = people.add_user(
                connection, f"l{labeler}{name}", "L", "labeler", None, actor=None, now=self.now
            )
            cohort = "heldout" if labeler == 3 else "train"
            people.join(connection, self.project.id, account.id, cohort, actor=None, now=self.now)
            self.people.append(account.id)
        given = [Prompt(id=f"p{n}", text=f"Prompt {n}") for n in range(NUM_TASKS)]
        numbers = projects.add_prompts(
            connection, self.project.id, given, actor=self.admin, now=self.now
        )
        self.tasks = [
            pools.add_demonstration_task(connection, self.project, n) for n in numbers.values()
        ]

    # The model's own reckoning

    def is_heldout(self, labeler):
        return labeler == 3

    def free(self, task, heldout):
        taken = sum(
            a.state == "leased" or (a.state == "submitted" and not a.extra)
            for a in self.held
            if a.task == task and self.is_heldout(a.labeler) == heldout
        )
        return max(0, self.targets[heldout] - taken)

    def leased(self, labeler):
        return next((a for a in self.held if a.labeler == labeler and a.state == "leased"), None)

    def open_to(self, labeler):
        begun = {a.task for a in self.held if a.labeler == labeler}
        heldout = self.is_heldout(labeler)
        return {t for t in self.tasks if t not in begun and self.free(t, heldout)}

    def reopen(self, a):
        if self.free(a.task, self.is_heldout(a.labeler)) and self.leased(a.labeler) is None:
            a.state, a.until = "leased", self.now + LEASE_S

    def end_leases(self):
        for a in self.held:
            if a.state == "leased" and a.until <= self.now:
                a.state = "expired"

    def pick(self, choice, *states):
        """An assignment in one of these states, the last to end first; in any if there is none."""
        fitting = [a for a in self.held if a.state in states] or list(self.held)
        fitting.sort(key=lambda a: -a.ended)
        return fitting[choice % len(fitting)]

    def ask(self, function, *given, **named):
        return self.database.write(lambda c: function(c, *given, **named, now=self.now))

    # What can happen: each rule mostly where it does something, now and then where it may not

    @rule(seconds=st.sampled_from([1.0, 2.0, 8.0, 10.5, 20.0, 51.0]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(labeler=LABELERS, again=LABELERS)
    def claim_two(self, labeler, again):
        self.claim(labeler)
        self.claim(again)

    def claim(self, labeler):
        if self.people[labeler] is None:
            return
        work = self.ask(tasks.claim, self.project.id, self.people[labeler], "demonstration")
        own = self.leased(labeler)
        if own is None:
            waiting = [
                a
                for a in self.held
                if a.labeler == labeler
                and a.state == "expired"
                and self.free(a.task, self.is_heldout(labeler))
            ]
            own = min(waiting, key=lambda a: a.claimed, default=None)
        if own is not None:
            assert work is not None and work.id == own.id
            assert (work.draft, work.draft_revision) == (own.draft, own.revision)
            own.state, own.until = "leased", self.now + LEASE_S
            return
        if not self.open_to(labeler):
            self.end_leases()
        possible = self.open_to(labeler)
        assert (work is None) == (not possible)
        if work is not None:
            task = self.task_of(work.id)
            assert task in possible
            self.num_claims += 1
            until = self.now + LEASE_S
            self.held.append(Assigned(work.id, task, labeler, self.num_claims, until))

    def task_of(self, assignment):
        query = select(assignments.c.task_id).where(assignments.c.id == assignment)
        with self.database.read() as connection:
            return connection.execute(query).scalar_one()

    @precondition(lambda self: self.held)
    @rule(choice=CHOICES)
    def heartbeat(self, choice):
        a = self.pick(choice, "expired", "leased")
        lease = self.ask(tasks.heartbeat, a.id, self.people[a.labeler])
        if a.state == "leased":
            a.until = self.now + LEASE_S
        elif a.state == "expired":
            self.reopen(a)
        assert (lease.state, lease.lease_until) == (a.state, a.until)

    @precondition(lambda self: self.held)
    @rule(choice=CHOICES, is_current=st.booleans())
    def save_draft(self, choice, is_current):
        a = self.pick(choice, "leased", "expired")
        payload = {"text": f"{self.now}-{a.revision}-{is_current}"}
        revision = a.revision if is_current else a.revision + 5
        who = self.people[a.labeler]
        if a.state not in ("leased", "expired"):
            with pytest.raises(Conflict):
                self.ask(tasks.save_draft, a.id, who, payload, revision=revision)
        elif is_current:
            for _ in range(2):  # the second is a repetition
                made = self.ask(tasks.save_draft, a.id, who, payload, revision=revision)
                assert made == revision + 1
            a.draft, a.revision = payload, revision + 1
        else:
            with pytest.raises(DraftConflict) as caught:
                self.ask(tasks.save_draft, a.id, who, payload, revision=revision)
            assert (caught.value.payload, caught.value.revision) == (a.draft, a.revision)

    @precondition(lambda self: self.held)
    @rule(choice=CHOICES)
    def submit(self, choice):
        a = self.pick(choice, "leased", "expired")
        self.num_keys += 1
        key = f"{self.project.id}-{self.num_keys}"
        answer = DemonstrationAnswer(f"answer {key}")
        who = self.people[a.labeler]
        if a.state not in ("leased", "expired"):
            with pytest.raises(Conflict):
                self.ask(tasks.submit, a.id, who, answer, key=key)
            return
        extra = a.state == "expired" and not self.free(a.task, self.is_heldout(a.labeler))
        receipt = self.ask(tasks.submit, a.id, who, answer, key=key)
        assert (receipt.is_extra, receipt.is_replay) == (extra, False)
        assert receipt.is_late == (self.now > a.until)
        a.state, a.extra, a.ended, a.key = "submitted", extra, self.now, key

    @precondition(lambda self: self.num_keys)
    @rule(choice=CHOICES, is_same=st.booleans())
    def submit_again(self, choice, is_same):
        sent = [(a, a.key, False) for a in self.held if a.state == "submitted"]
        sent += [(a, key, True) for key, (a, _) in self.withdrawn.items() if a in self.held]
        if not sent:
            return
        a, key, is_withdrawn = sent[choice % len(sent)]
        answer = DemonstrationAnswer(f"answer {key}" if is_same else "something else")
        if is_same:
            receipt = self.ask(tasks.submit, a.id, self.people[a.labeler], answer, key=key)
            assert (receipt.is_replay, receipt.is_withdrawn) == (True, is_withdrawn)
        else:
            with pytest.raises(Conflict):
                self.ask(tasks.submit, a.id, self.people[a.labeler], answer, key=key)

    @precondition(lambda self: self.held)
    @rule(choice=CHOICES)
    def skip(self, choice):
        a = self.pick(choice, "leased", "expired")
        if a.state == "submitted":
            with pytest.raises(Conflict):
                self.ask(tasks.skip, a.id, self.people[a.labeler])
            return
        self.ask(tasks.skip, a.id, self.people[a.labeler])
        if a.state != "skipped":
            a.state, a.ended = "skipped", self.now

    @precondition(lambda self: self.held)
    @rule(choice=CHOICES)
    def undo(self, choice):
        a = self.pick(choice, "submitted", "skipped")
        who = self.people[a.labeler]
        if a.state in ("submitted", "skipped"):
            limit = UNDO_S if a.state == "submitted" else RESTORE_S
            if self.now > a.ended + limit:
                with pytest.raises(Conflict):
                    self.ask(tasks.undo, a.id, who)
                return
            other = self.leased(a.labeler)
            if other is not None:
                other.state = "expired"
            if a.state == "submitted":
                self.withdrawn[a.key] = (a, a.key)
            a.state, a.extra = "expired", False
            self.reopen(a)
        work = self.ask(tasks.undo, a.id, who)
        assert (work.id, work.state, work.draft) == (a.id, a.state, a.draft)

    @precondition(lambda self: any(a.state == "leased" for a in self.held))
    @rule(seconds=st.sampled_from([0.0, 20.0]))
    def expire(self, seconds):
        self.now += seconds
        due = sum(a.state == "leased" and a.until <= self.now for a in self.held)
        assert self.ask(tasks.expire, project_id=self.project.id) == due
        self.end_leases()

    @rule(overlap=st.sampled_from([1, 2, 3]))
    def change_overlap(self, overlap):
        self.targets = (1, 0) if overlap == 1 else (overlap, 1)
        changed = replace(SETTINGS, overlap_fraction=float(overlap > 1), overlap_n=overlap)
        self.ask(pools.change_settings, self.project.id, changed, actor=self.admin)

    @precondition(lambda self: self.num_claims > 5)  # when there is something to erase
    @rule(labeler=st.sampled_from([1, 2]), once_in=st.integers(0, 9))
    def erase(self, labeler, once_in):
        who = self.people[labeler]
        if who is None or once_in:
            return
        self.ask(erasure.erase_labeler, who, actor=self.admin)
        gone = [a for a in self.held if a.labeler == labeler]
        self.held = [a for a in self.held if a.labeler != labeler]
        self.people[labeler] = None
        for a in gone:
            with pytest.raises(NotFound):
                self.ask(tasks.heartbeat, a.id, who)

    # What always holds

    @invariant()
    def the_store_is_as_the_model(self):
        with self.database.read() as connection:
            slots = {
                row.id: (row.open_slots, row.heldout_open)
                for row in connection.execute(
                    select(task_table).where(task_table.c.project_id == self.project.id)
                )
            }
            rows = {
                row.id: (row.state, row.is_extra, row.lease_until)
                for row in connection.execute(
                    select(assignments).where(assignments.c.project_id == self.project.id)
                )
            }
            answers = [r.response for r in labels.demonstration_rows(connection, self.project.id)]
        assert slots == {t: (self.free(t, False), self.free(t, True)) for t in self.tasks}
        assert rows == {a.id: (a.state, a.extra, a.until) for a in self.held}
        kept = [f"answer {a.key}" for a in self.held if a.state == "submitted"]
        assert sorted(answers) == sorted(kept)

    def teardown(self):
        with self.database.read() as connection:
            assert audit.verify(connection) is None


def walk(work, seed):
    """Takes steps by lot; says how often each was taken and what it met."""
    draw = random.Random(seed)
    taken = Counter()

    def number(limit):
        return draw.randrange(limit)

    steps = [
        lambda: work.time_passes(draw.choice([1.0, 2.0, 4.0, 10.5])),
        *[lambda: work.claim_two(number(4), number(4))] * 3,
        lambda: work.heartbeat(number(999)),
        *[lambda: work.save_draft(number(999), number(4) > 0)] * 2,
        *[lambda: work.submit(number(999))] * 3,
        lambda: work.submit_again(number(999), number(3) > 0),
        *[lambda: work.skip(number(999))] * 2,
        *[lambda: work.undo(number(3))] * 3,
        lambda: work.expire(draw.choice([0.0, 20.0])),
        lambda: work.change_overlap(draw.choice([1, 2, 3])),
        lambda: work.erase(1 + number(2), number(10)),
    ]
    for _ in range(WALK_STEPS):
        before = Counter(a.state for a in work.held)
        step = draw.choice(steps) if work.held else steps[1]
        step()
        work.the_store_is_as_the_model()
        after = Counter(a.state for a in work.held)
        taken.update(after - before)
        taken["extra"] += sum(a.extra for a in work.held)
        taken["withdrawn"] = len(work.withdrawn)
    work.teardown()
    return taken


@pytest.mark.parametrize("seed", WALKS)
def test_a_long_walk_leads_to_the_same_place_in_the_store_and_in_the_model(database, seed):
    met = walk(Work(database), seed)
    # The walk is long enough to have met what matters.
    assert min(met[x] for x in ("leased", "submitted", "skipped", "expired", "withdrawn")) > 3
    assert met["extra"] > 0


def test_orders_that_hypothesis_finds_do_so_too(database):
    run_state_machine_as_test(
        lambda: Work(database),
        settings=settings(
            max_examples=NUM_EXAMPLES,
            stateful_step_count=30,
            deadline=None,
            derandomize="HEEDFUL_EXAMPLES" not in os.environ,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
