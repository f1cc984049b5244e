"""Evaluations of the policy while step 3 trains it: each done once, and none changes the training.

An evaluator is handed over by the caller. What it draws comes from random states of its own, so a
run is the same with and without it; what it found is kept beside the training state, so a run that
was killed takes it from there where it does the same iteration again. What evaluating costs is
told: a line on the terminal, ``time/evaluate_s`` and ``time/evaluate_share``.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from heedful.config import Section
from heedful.metrics import LINE_WIDTH, iter_jsonl, keep_rows_before, short_number
from heedful.training.checkpoint import STATE_DIR
from heedful.training.loop import Timer

# An evaluator gets the policy and returns metrics by key.
Evaluator = Callable[[Any], Mapping[str, float]]

KEPT_FILE = "evaluations.jsonl"  # in state/
MORE = "  and {} more"  # of what does not fit into the line
# What of a row of metrics.jsonl is time that is no part of another's.
PHASES = ("rollout", "experience", "optimize", "observe", "evaluate")


def mark_of(settings: Section) -> str:
    """A hash of the settings that say what is measured."""
    return hashlib.sha256(settings.model_dump_json().encode()).hexdigest()[:16]


class Evaluations:
    """The evaluators of a run, when they are due, what they found, and what they have cost.

    ``rows`` are those of the iterations before ``first``, which an earlier process has done.
    ``asked`` tells what the evaluators measure: what was found with another is not taken for it.
    """

    def __init__(
        self,
        evaluators: Sequence[Evaluator],
        run_dir: Path,
        every: int,
        total: int,
        first: int = 0,
        rows: Sequence[Mapping[str, Any]] = (),
        asked: str = "",
    ):
        self.evaluators, self.every, self.total, self.asked = evaluators, every, total, asked
        self.path = run_dir / STATE_DIR / KEPT_FILE
        if first == 0:  # of another run, or of one that left nothing to go on from
            self.path.unlink(missing_ok=True)
        keep_rows_before(self.path, total, "iteration")  # a line that a kill has cut goes
        kept = iter_jsonl(self.path) if self.path.is_file() else ()
        self.kept = {row["iteration"]: row for row in kept if row.get("asked", "") == asked}
        self.seconds = dict.fromkeys(PHASES, 0.0)
        for row in rows:
            self._count({name: row.get(f"time/{name}_s") or 0.0 for name in PHASES})

    def is_due(self, iteration: int) -> bool:
        """True at every ``every``-th iteration and at the last; never where that is 0."""
        done = iteration + 1
        is_time = self.every > 0 and (done % self.every == 0 or done == self.total)
        return is_time and bool(self.evaluators)

    def look(self, policy: Any, iteration: int, timer: Timer) -> dict[str, float]:
        """What the evaluators say of the policy after an iteration, where they are due.

        ``timer`` has the seconds of the iteration so far and gets those of evaluating.
        """
        is_due = self.is_due(iteration)
        found: dict[str, float] = {}
        if is_due:
            found = self._found(policy, iteration, timer)
        self._count(timer.seconds)
        if is_due:
            share = self.seconds["evaluate"] / max(sum(self.seconds.values()), 1e-9)
            self._say(iteration, found, timer.seconds["evaluate"], share)
            found["time/evaluate_share"] = share
        return found

    def _found(self, policy: Any, iteration: int, timer: Timer) -> dict[str, float]:
        before = self.kept.get(iteration)
        if before is not None:
            timer.restart()
            timer.seconds["evaluate"] = before["seconds"]
            return dict(before["values"])
        found: dict[str, float] = {}
        with undisturbed(policy):
            for evaluator in self.evaluators:
                found |= {key: float(value) for key, value in evaluator(policy).items()}
        timer.lap("evaluate")
        seconds = timer.seconds["evaluate"]
        row = {"iteration": iteration, "asked": self.asked, "seconds": seconds, "values": found}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        return found

    def _count(self, seconds: Mapping[str, float]) -> None:
        for name in PHASES:
            self.seconds[name] += seconds.get(name, 0.0)

    def _say(
        self, iteration: int, found: Mapping[str, float], seconds: float, share: float
    ) -> None:
        took = f"{short_number(seconds)} s, {share:.1%} of the run so far"
        line = f"step {iteration + 1}/{self.total}  evaluated ({took}):"
        left = len(found)
        for key, value in found.items():
            field = f"  {key.partition('/')[2] or key} {short_number(value)}"
            if len(line) + len(field) > LINE_WIDTH - (len(MORE) if left > 1 else 0):
                line += MORE.format(left)
                break
            line, left = line + field, left - 1
        print(line, file=sys.stderr, flush=True)


@contextmanager
def undisturbed(policy: Any) -> Iterator[None]:
    """Until the end no gradient is made; then everybody's random states and the policy's mode are
    as they were."""
    state, numpy_state, is_training = random.getstate(), np.random.get_state(), policy.training
    devices = list(range(torch.cuda.device_count()))
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)
        policy.train(is_training)
