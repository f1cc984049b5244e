"""The answers in rows: kept with a submission, taken back with an undo, read for statistics."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from heedful.records import Cohort, Prompt, Rating
from heedful.store.answers import (
    QUARANTINE_FLAGS,
    Answer,
    DemonstrationAnswer,
    PromptAnswer,
    PromptLabels,
    RankingAnswer,
)
from heedful.store.pools import Pool
from heedful.store.projects import add_prompts, get, quarantine, share_of
from heedful.store.tables import (
    assignments,
    completions,
    demonstrations,
    gold,
    guidelines,
    label_schemas,
    prompt_labels,
    prompts,
    rankings,
    ratings,
    submissions,
    task_completions,
    tasks,
)

# Of what labelers write, the share that is held out (paper, Table 6: 12 % of the SFT prompts).
# All prompts of one few-shot instruction are on the same side.
VALID_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class RankingRow:
    """One labeler's ranking of a task, in the task's own order of completions.

    ``outputs`` are their numbers. ``ratings`` has None for an output that was not rated;
    ``display_order[i]`` is the place in the task of what was shown in place ``i``.
    """

    submission_id: int
    task_id: int
    prompt_id: int
    pool: Pool
    labeler_id: int
    cohort: Cohort
    is_extra: bool
    at: float
    active_s: float | None
    outputs: tuple[int, ...]
    ranks: tuple[int, ...]
    ratings: tuple[Rating | None, ...]
    display_order: tuple[int, ...]
    checks: tuple[str, ...]
    guideline: int
    schema: int


def completions_of(connection: Connection, task: int) -> list[int]:
    """The numbers of a task's completions, in the task's order."""
    query = select(task_completions.c.completion_id).where(task_completions.c.task_id == task)
    return list(connection.execute(query.order_by(task_completions.c.position)).scalars())


def display_order(assignment_id: str, completion_numbers: list[int]) -> list[int]:
    """The completions in the order in which this assignment shows them, decided by a hash."""
    return sorted(completion_numbers, key=lambda number: share_of(assignment_id, "show", number))


def keep(
    connection: Connection, submission: int, assignment: Row[Any], answer: Answer, *, now: float
) -> None:
    """Writes the rows of an answer; a prompt flagged as personal or unsafe goes to quarantine."""
    prompt = connection.execute(
        select(tasks.c.prompt_id).where(tasks.c.id == assignment.task_id)
    ).scalar_one()
    if isinstance(answer, PromptAnswer):
        _keep_prompts(connection, submission, assignment, answer, now=now)
        return
    if isinstance(answer, DemonstrationAnswer):
        values = {
            "submission_id": submission,
            "prompt_id": prompt,
            "labeler_id": assignment.labeler_id,
            "response": answer.response,
        }
        connection.execute(insert(demonstrations).values(values))
    else:
        _keep_ranking(connection, submission, assignment, answer)
    _keep_labels(connection, submission, prompt, answer.labels)
    alarms = [name for name in QUARANTINE_FLAGS if answer.labels.flags.get(name)]
    if alarms:
        reason = ", ".join(alarms)
        quarantine(connection, prompt, reason, actor=assignment.labeler_id, now=now)


def _keep_ranking(
    connection: Connection, submission: int, assignment: Row[Any], answer: RankingAnswer
) -> None:
    own = completions_of(connection, assignment.task_id)
    shown = display_order(assignment.id, own)
    ranks = {number: answer.ranks[place] for place, number in enumerate(shown)}
    connection.execute(
        insert(rankings).values(
            submission_id=submission,
            task_id=assignment.task_id,
            labeler_id=assignment.labeler_id,
            ranks=[ranks[number] for number in own],
            display_order=[own.index(number) for number in shown],
            checks=list(answer.checks),
            notes=answer.notes,
        )
    )
    notes = answer.rating_notes or ("",) * len(shown)
    rows = [
        {
            "submission_id": submission,
            "completion_id": number,
            "overall": None if rating is None else rating.overall,
            "flags": {} if rating is None else dict(rating.flags),
            "notes": note,
        }
        for number, rating, note in zip(shown, answer.ratings, notes, strict=True)
    ]
    connection.execute(insert(ratings), rows)


def _keep_labels(
    connection: Connection, submission: int, prompt: int, labels: PromptLabels
) -> None:
    if labels.use_case is None and not labels.flags:
        return
    values = {
        "submission_id": submission,
        "prompt_id": prompt,
        "use_case": labels.use_case,
        "flags": dict(labels.flags),
    }
    connection.execute(insert(prompt_labels).values(values))


def _keep_prompts(
    connection: Connection,
    submission: int,
    assignment: Row[Any],
    answer: PromptAnswer,
    *,
    now: float,
) -> None:
    project = get(connection, assignment.project_id)
    kind = connection.execute(
        select(tasks.c.prompt_kind).where(tasks.c.id == assignment.task_id)
    ).scalar_one()
    is_valid = share_of(project.seed, "split", assignment.id) < VALID_SHARE
    written = few_shot_prompts(answer) if answer.pairs else [(answer.text, answer.response)]
    for number, (text, response) in enumerate(written):
        prompt = Prompt(
            id=f"{assignment.id}-{submission}-{number}",
            text=text,
            source="labeler",
            kind=kind,
            use_case=answer.use_case,
            split="valid" if is_valid else "train",
        )
        numbers = add_prompts(
            connection,
            project.id,
            [prompt],
            author_id=assignment.labeler_id,
            submission_id=submission,
            actor=assignment.labeler_id,
            now=now,
        )
        if response.strip():
            values = {
                "submission_id": submission,
                "prompt_id": numbers[prompt.id],
                "labeler_id": assignment.labeler_id,
                "response": response,
            }
            connection.execute(insert(demonstrations).values(values))


def few_shot_prompts(answer: PromptAnswer) -> list[tuple[str, str]]:
    """(prompt, response) for each of K pairs: the instruction and the other K - 1 come before it.

    So K pairs make K examples (paper, A.1).
    """
    made = []
    for number, (query, response) in enumerate(answer.pairs):
        others = [pair for other, pair in enumerate(answer.pairs) if other != number]
        shown = [f"Input: {q.strip()}\nOutput: {r.strip()}" for q, r in others]
        made.append(
            (
                "\n\n".join([answer.text.strip(), *shown, f"Input: {query.strip()}\nOutput:"]),
                response,
            )
        )
    return made


def withdraw(connection: Connection, assignment_id: str, *, now: float) -> None:
    """Takes back an assignment's standing submission: its rows go, the submission stays, marked."""
    standing = (submissions.c.assignment_id == assignment_id) & submissions.c.withdrawn_at.is_(None)
    submission = connection.execute(select(submissions.c.id).where(standing)).scalar_one()
    drop_rows(connection, [submission])
    connection.execute(
        update(prompts)
        .where(prompts.c.submission_id == submission)
        .values(state="removed", text="", reason="withdrawn by its author")
    )
    connection.execute(update(submissions).where(standing).values(withdrawn_at=now))


def drop_rows(connection: Connection, submission_ids: list[int]) -> None:
    """Deletes the rows that submissions have made."""
    for table in (demonstrations, ratings, rankings, prompt_labels):
        connection.execute(delete(table).where(table.c.submission_id.in_(submission_ids)))


# Reading


class Version(NamedTuple):
    """What changes whenever figures about a project's rankings do; cheap to read."""

    num_rankings: int
    last_at: float
    num_special: int  # gold and drift tasks
    special_sum: int
    gold_at: float


def version(connection: Connection, project_id: int) -> Version:
    """The version of a project's rankings, from indexes alone.

    An answer that was undone and given again has a later time; erasing takes rows away.
    """
    # Two statements: the last of an index is found at once, and counting reads it all.
    given, last = (
        select(value).where(
            assignments.c.project_id == project_id,
            assignments.c.kind == "ranking",
            assignments.c.state == "submitted",
        )
        for value in (func.count(), func.max(assignments.c.ended_at))
    )
    special = select(func.count(), func.coalesce(func.sum(tasks.c.id), 0)).where(
        tasks.c.project_id == project_id, tasks.c.pool.in_(("gold", "drift"))
    )
    measured = (
        select(func.coalesce(func.max(gold.c.at), 0.0))
        .join(tasks, tasks.c.id == gold.c.task_id)
        .where(tasks.c.project_id == project_id)
    )
    num_rankings = connection.execute(given).scalar_one()
    last_at = connection.execute(last).scalar_one() or 0.0
    num_special, special_sum = connection.execute(special).one()
    gold_at = connection.execute(measured).scalar_one()
    return Version(num_rankings, last_at, num_special, int(special_sum), gold_at)


def ranking_rows(
    connection: Connection,
    project_id: int,
    *,
    labeler_id: int | None = None,
    of_tasks: Collection[int] | None = None,
) -> Iterator[RankingRow]:
    """Every ranking of a project that stands, with its ratings, in order of submission.

    ``of_tasks`` (some hundreds at most) gives those of some tasks alone.
    """
    query = (
        select(
            rankings,
            tasks.c.prompt_id,
            tasks.c.pool,
            assignments.c.cohort,
            assignments.c.is_extra,
            assignments.c.active_s,
            submissions.c.created_at,
            guidelines.c.number.label("guideline"),
            label_schemas.c.number.label("schema"),
        )
        .join(submissions, submissions.c.id == rankings.c.submission_id)
        .join(assignments, assignments.c.id == submissions.c.assignment_id)
        .join(guidelines, guidelines.c.id == assignments.c.guideline_id)
        .join(label_schemas, label_schemas.c.id == assignments.c.label_schema_id)
        .join(tasks, tasks.c.id == rankings.c.task_id)
        .where(tasks.c.project_id == project_id)
        .order_by(rankings.c.submission_id)
    )
    given = (
        select(ratings, task_completions.c.position)
        .join(rankings, rankings.c.submission_id == ratings.c.submission_id)
        .join(tasks, tasks.c.id == rankings.c.task_id)
        .join(
            task_completions,
            (task_completions.c.task_id == rankings.c.task_id)
            & (task_completions.c.completion_id == ratings.c.completion_id),
        )
        .where(tasks.c.project_id == project_id)
        .order_by(ratings.c.submission_id, task_completions.c.position)
    )
    if labeler_id is not None:
        query = query.where(rankings.c.labeler_id == labeler_id)
        given = given.where(rankings.c.labeler_id == labeler_id)
    if of_tasks is not None:
        query = query.where(rankings.c.task_id.in_(of_tasks))
        given = given.where(rankings.c.task_id.in_(of_tasks))
    # Both come in the same order, and every ranking has a rating row for each of its completions.
    with (
        connection.execute(given.execution_options(yield_per=5000)) as rated,
        connection.execute(query.execution_options(yield_per=1000)) as rows,
    ):
        for row in rows:
            yield _ranking_row(row, [next(rated) for _ in row.ranks])


def standing(connection: Connection, project_id: int, *, after: int = 0) -> list[tuple[int, int]]:
    """(submission, task) of every ranking that stands, or of those submitted after one."""
    query = (
        select(rankings.c.submission_id, rankings.c.task_id)
        .join(tasks, tasks.c.id == rankings.c.task_id)
        .where(tasks.c.project_id == project_id, rankings.c.submission_id > after)
        .order_by(rankings.c.submission_id)
    )
    return [(row.submission_id, row.task_id) for row in connection.execute(query)]


def standing_sum(connection: Connection, project_id: int) -> tuple[int, int]:
    """How many rankings stand, and the sum of their submissions' numbers: what tells two sets of
    rankings apart without reading them."""
    query = (
        select(func.count(), func.coalesce(func.sum(rankings.c.submission_id), 0))
        .join(tasks, tasks.c.id == rankings.c.task_id)
        .where(tasks.c.project_id == project_id)
    )
    number, total = connection.execute(query).one()
    return number, int(total)


def special_tasks(connection: Connection, project_id: int) -> dict[int, Pool]:
    """{task: pool} of the tasks that everybody is given: gold, and those that show drift."""
    query = select(tasks.c.id, tasks.c.pool).where(
        tasks.c.project_id == project_id, tasks.c.pool.in_(("gold", "drift"))
    )
    return {row.id: row.pool for row in connection.execute(query)}


def _ranking_row(row: Row[Any], rated: list[Row[Any]]) -> RankingRow:
    return RankingRow(
        submission_id=row.submission_id,
        task_id=row.task_id,
        prompt_id=row.prompt_id,
        pool=row.pool,
        labeler_id=row.labeler_id,
        cohort=row.cohort,
        is_extra=row.is_extra,
        at=row.created_at,
        active_s=row.active_s,
        outputs=tuple(r.completion_id for r in rated),
        ranks=tuple(row.ranks),
        ratings=tuple(None if r.overall is None else Rating(r.overall, r.flags) for r in rated),
        display_order=tuple(row.display_order),
        checks=tuple(row.checks),
        guideline=row.guideline,
        schema=row.schema,
    )


@dataclass(frozen=True, slots=True)
class DemonstrationRow:
    """One response that a labeler wrote."""

    submission_id: int
    prompt_id: int
    prompt: str
    labeler_id: int
    response: str
    at: float


def demonstration_rows(
    connection: Connection, project_id: int, *, labeler_id: int | None = None
) -> Iterator[DemonstrationRow]:
    """Every demonstration of a project that stands, in order of submission."""
    query = (
        select(demonstrations, prompts.c.text, submissions.c.created_at)
        .join(prompts, prompts.c.id == demonstrations.c.prompt_id)
        .join(submissions, submissions.c.id == demonstrations.c.submission_id)
        .where(prompts.c.project_id == project_id)
        .order_by(demonstrations.c.submission_id, demonstrations.c.prompt_id)
    )
    if labeler_id is not None:
        query = query.where(demonstrations.c.labeler_id == labeler_id)
    with connection.execute(query.execution_options(yield_per=1000)) as rows:
        for r in rows:
            yield DemonstrationRow(
                r.submission_id, r.prompt_id, r.text, r.labeler_id, r.response, r.created_at
            )


def prompt_label_rows(
    connection: Connection, project_id: int
) -> Iterator[tuple[int, int, PromptLabels]]:
    """(prompt, labeler, labels) of every answer that labels its prompt, in order of submission."""
    query = (
        select(prompt_labels, assignments.c.labeler_id)
        .join(submissions, submissions.c.id == prompt_labels.c.submission_id)
        .join(assignments, assignments.c.id == submissions.c.assignment_id)
        .where(assignments.c.project_id == project_id)
        .order_by(prompt_labels.c.submission_id)
    )
    with connection.execute(query.execution_options(yield_per=1000)) as rows:
        for row in rows:
            yield row.prompt_id, row.labeler_id, PromptLabels(row.use_case, row.flags)


def output_lengths(
    connection: Connection, project_id: int, of_tasks: Collection[int]
) -> dict[int, int]:
    """{number: characters} of every completion of some tasks of a project."""
    query = (
        select(completions.c.id, func.length(completions.c.text).label("length"))
        .join(task_completions, task_completions.c.completion_id == completions.c.id)
        .join(tasks, tasks.c.id == task_completions.c.task_id)
        .where(tasks.c.project_id == project_id, tasks.c.id.in_(of_tasks))
    )
    return {row.id: row.length for row in connection.execute(query)}
