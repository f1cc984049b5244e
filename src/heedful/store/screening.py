"""The screening of labelers before they work (paper, B.1): items, answers, grades, decisions.

Four kinds of items, and what their JSON holds:

    flags          content {"prompt", "output" or null, "questions": [...]}
                   truth and answer {question: bool}
    ranking        content {"prompt", "outputs": [...]}
                   truth and answer [rank, ...], in the order of the outputs
    demonstration  content {"prompt"}; answer the response, which reviewers grade from 1 to 7
    topics         content {"question"}; answer a text, which people read

What the answers say about a labeler is computed elsewhere, and decided by people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

from sqlalchemy import Connection, delete, func, insert, select, update

from heedful.records import Cohort
from heedful.store import audit
from heedful.store.answers import check_text
from heedful.store.database import insert_new, insert_row
from heedful.store.people import Membership, MemberState, change_membership, membership
from heedful.store.problems import AnswerProblem, Conflict, NotFound
from heedful.store.projects import Project, share_of
from heedful.store.tables import (
    memberships,
    screening_answers,
    screening_grades,
    screening_items,
)

ItemKind = Literal["flags", "ranking", "demonstration", "topics"]
MAX_OUTPUTS = 9


@dataclass(frozen=True, slots=True)
class Question:
    """An item as the labeler sees it: without what researchers have answered."""

    id: int
    kind: ItemKind
    content: dict[str, Any]
    answer: Any


@dataclass(frozen=True, slots=True)
class Item:
    """An item as researchers see it."""

    id: int
    position: int
    kind: ItemKind
    content: dict[str, Any]
    truth: Any


@dataclass(frozen=True, slots=True)
class ScreeningAnswer:
    """One answer of one candidate beside the truth; ``scores`` are the reviewers' grades."""

    id: int
    item_id: int
    user_id: int
    kind: ItemKind
    content: dict[str, Any]
    truth: Any
    answer: Any
    scores: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """Somebody who is or was screened, as those who decide see them: by a code, without a name."""

    code: str
    user_id: int
    state: MemberState
    note: str
    num_answers: int


def add_item(
    connection: Connection,
    project_id: int,
    kind: ItemKind,
    content: dict[str, Any],
    truth: Any = None,
    *,
    actor: int,
    now: float,
) -> int:
    """The number of a new item, after the others. Candidates who have finished do not get it."""
    check_item(kind, content, truth)
    count = select(func.count()).where(screening_items.c.project_id == project_id)
    values = {
        "project_id": project_id,
        "position": connection.execute(count).scalar_one(),
        "kind": kind,
        "content": content,
        "truth": None if truth is None else {"value": truth},
    }
    item = insert_row(connection, screening_items, **values)
    audit.record(connection, "add_item", f"item/{item}", actor=actor, now=now, kind=kind)
    return item


def check_item(kind: str, content: Any, truth: Any) -> None:
    """Raises AnswerProblem where an item could not be asked, or its truth is not whole."""
    asked = {"flags": ("prompt",), "ranking": ("prompt",), "demonstration": ("prompt",)}
    texts = asked.get(kind, ("question",) if kind == "topics" else ())
    if not texts:
        raise AnswerProblem("kind", f"is {kind!r}: flags, ranking, demonstration or topics")
    if not isinstance(content, dict):
        raise AnswerProblem("content", "has to be an object")
    given = [(name, content.get(name)) for name in texts]
    if kind == "flags":
        if content.get("output") is not None:
            given.append(("output", content["output"]))
        given += [("questions", one) for one in _list_of(content, "questions", 1, 20)]
    elif kind == "ranking":
        given += [("outputs", one) for one in _list_of(content, "outputs", 2, MAX_OUTPUTS)]
    for name, text in given:
        if not isinstance(text, str):
            raise AnswerProblem(f"content.{name}", "has to be a text")
        check_text(text, f"content.{name}")
    if kind in ("flags", "ranking"):
        _check_answer(kind, content, truth, "truth")


def _list_of(content: Mapping[str, Any], name: str, least: int, most: int) -> list[Any]:
    found = content.get(name)
    if not isinstance(found, list) or not least <= len(found) <= most:
        raise AnswerProblem(f"content.{name}", f"has to be a list of {least} to {most} texts")
    return found


def drop_item(connection: Connection, item_id: int, *, actor: int, now: float) -> None:
    """Removes an item that nobody has answered."""
    answered = select(screening_answers.c.id).where(
        screening_answers.c.screening_item_id == item_id
    )
    if connection.execute(answered.limit(1)).first() is not None:
        raise Conflict("this item has answers: it stays, so that all are measured by the same")
    connection.execute(delete(screening_items).where(screening_items.c.id == item_id))
    audit.record(connection, "drop_item", f"item/{item_id}", actor=actor, now=now)


def items(connection: Connection, project_id: int) -> list[Item]:
    """The items of a project in their order, with the truth: for researchers."""
    query = select(screening_items).where(screening_items.c.project_id == project_id)
    rows = connection.execute(query.order_by(screening_items.c.position, screening_items.c.id))
    return [Item(r.id, r.position, r.kind, r.content, _value(r.truth)) for r in rows]


def questions(connection: Connection, project_id: int, user_id: int) -> list[Question]:
    """The items of a project in their order, with the labeler's own answers: for labelers."""
    query = (
        select(
            screening_items.c.id,
            screening_items.c.kind,
            screening_items.c.content,
            screening_answers.c.answer,
        )
        .outerjoin(
            screening_answers,
            (screening_answers.c.screening_item_id == screening_items.c.id)
            & (screening_answers.c.user_id == user_id),
        )
        .where(screening_items.c.project_id == project_id)
        .order_by(screening_items.c.position, screening_items.c.id)
    )
    rows = connection.execute(query)
    return [Question(r.id, r.kind, r.content, _value(r.answer)) for r in rows]


def answer(connection: Connection, item_id: int, user_id: int, given: Any, *, now: float) -> None:
    """Keeps a candidate's answer to an item, in place of an earlier one, until they finish."""
    query = select(screening_items).where(screening_items.c.id == item_id)
    item = connection.execute(query).first()
    if item is None:
        raise NotFound(f"there is no item {item_id}")
    _candidate(connection, item.project_id, user_id)
    _check_answer(item.kind, item.content, given, "answer")
    values = {
        "screening_item_id": item_id,
        "user_id": user_id,
        "answer": {"value": given},
        "at": now,
    }
    if not insert_new(connection, screening_answers, values):
        connection.execute(
            update(screening_answers)
            .where(
                screening_answers.c.screening_item_id == item_id,
                screening_answers.c.user_id == user_id,
            )
            .values(answer={"value": given}, at=now)
        )


def finish(connection: Connection, project_id: int, user_id: int, *, now: float) -> None:
    """Hands a candidate's screening in; AnswerProblem while an item is without an answer."""
    _candidate(connection, project_id, user_id)
    for number, question in enumerate(questions(connection, project_id, user_id), start=1):
        if question.answer is None:
            raise AnswerProblem(f"items.{question.id}", f"item {number} has no answer yet")
    change_membership(connection, project_id, user_id, state="screened", actor=user_id, now=now)


def grade(
    connection: Connection, answer_id: int, reviewer_id: int, score: int, *, now: float
) -> None:
    """Keeps a reviewer's score of a demonstration, 1 to 7, in place of their earlier one."""
    if not 1 <= score <= 7:
        raise AnswerProblem("score", f"is {score}; scores go from 1 to 7")
    kind = connection.execute(
        select(screening_items.c.kind)
        .join(screening_answers, screening_answers.c.screening_item_id == screening_items.c.id)
        .where(screening_answers.c.id == answer_id)
    ).scalar()
    if kind != "demonstration":
        raise NotFound(f"there is no demonstration {answer_id} to grade")
    place = (screening_grades.c.screening_answer_id == answer_id) & (
        screening_grades.c.reviewer_id == reviewer_id
    )
    connection.execute(delete(screening_grades).where(place))
    values = {
        "screening_answer_id": answer_id,
        "reviewer_id": reviewer_id,
        "score": score,
        "at": now,
    }
    connection.execute(insert(screening_grades).values(values))
    audit.record(connection, "grade", f"answer/{answer_id}", actor=reviewer_id, now=now)


def answers(
    connection: Connection, project_id: int, *, user_id: int | None = None
) -> list[ScreeningAnswer]:
    """The answers of all candidates, or of one, beside the truth, in the order of the items."""
    graded: dict[int, list[int]] = {}
    for row in connection.execute(
        select(screening_grades).order_by(screening_grades.c.reviewer_id)
    ):
        graded.setdefault(row.screening_answer_id, []).append(row.score)
    query = (
        select(
            screening_answers,
            screening_items.c.kind,
            screening_items.c.content,
            screening_items.c.truth,
        )
        .join(screening_items, screening_items.c.id == screening_answers.c.screening_item_id)
        .where(screening_items.c.project_id == project_id)
        .order_by(screening_answers.c.user_id, screening_items.c.position, screening_items.c.id)
    )
    if user_id is not None:
        query = query.where(screening_answers.c.user_id == user_id)
    return [
        ScreeningAnswer(
            id=row.id,
            item_id=row.screening_item_id,
            user_id=row.user_id,
            kind=row.kind,
            content=row.content,
            truth=_value(row.truth),
            answer=_value(row.answer),
            scores=tuple(graded.get(row.id, ())),
        )
        for row in connection.execute(query)
    ]


def own_grades(connection: Connection, project_id: int, reviewer_id: int) -> dict[int, int]:
    """{answer: score} of one reviewer, who sees others' scores only beside their own."""
    query = (
        select(screening_grades.c.screening_answer_id, screening_grades.c.score)
        .join(screening_answers, screening_answers.c.id == screening_grades.c.screening_answer_id)
        .join(screening_items, screening_items.c.id == screening_answers.c.screening_item_id)
        .where(
            screening_items.c.project_id == project_id,
            screening_grades.c.reviewer_id == reviewer_id,
        )
    )
    return {row.screening_answer_id: row.score for row in connection.execute(query)}


def candidates(connection: Connection, project: Project) -> list[Candidate]:
    """Everybody who is or was screened in a project, in the order of their codes."""
    count = (
        select(screening_answers.c.user_id, func.count().label("n"))
        .join(screening_items, screening_items.c.id == screening_answers.c.screening_item_id)
        .where(screening_items.c.project_id == project.id)
        .group_by(screening_answers.c.user_id)
        .subquery()
    )
    number = func.coalesce(count.c.n, 0)
    query = (
        select(memberships, number.label("num_answers"))
        .outerjoin(count, count.c.user_id == memberships.c.user_id)
        .where(
            memberships.c.project_id == project.id,
            memberships.c.state.in_(("screening", "screened")) | (number > 0),
        )
    )
    found = [
        Candidate(_code(project, row.user_id), row.user_id, row.state, row.note, row.num_answers)
        for row in connection.execute(query)
    ]
    return sorted(found, key=lambda one: one.code)


def _code(project: Project, user_id: int) -> str:
    """The name under which a candidate is judged; it is not the pseudonym of the exports."""
    text = f"{project.seed}/candidate/{user_id}"
    return f"candidate-{blake2b(text.encode(), digest_size=4).hexdigest()}"


def shown_order(project: Project, item_id: int, num_outputs: int) -> list[int]:
    """The outputs of a ranking in the order of the page: the order typed in may tell the ranks."""
    return sorted(
        range(num_outputs), key=lambda place: share_of(project.seed, "screening", item_id, place)
    )


def decide(
    connection: Connection,
    project_id: int,
    user_id: int,
    *,
    accept: bool,
    cohort: Cohort | None = None,
    note: str = "",
    actor: int,
    now: float,
) -> None:
    """Takes a candidate on, or not; a decision can be changed later."""
    found = membership(connection, project_id, user_id)
    if found is None:
        raise NotFound(f"user {user_id} is not in project {project_id}")
    change_membership(
        connection,
        project_id,
        user_id,
        state="active" if accept else "rejected",
        cohort=cohort,
        note=note,
        actor=actor,
        now=now,
    )


def _candidate(connection: Connection, project_id: int, user_id: int) -> Membership:
    query = select(memberships.c.state).where(
        memberships.c.project_id == project_id, memberships.c.user_id == user_id
    )
    connection.execute(query.with_for_update())
    found = membership(connection, project_id, user_id)
    if found is None:
        raise NotFound("there is no such screening of yours")
    if found.state != "screening":
        raise Conflict("your screening was handed in already")
    return found


def _value(stored: Mapping[str, Any] | None) -> Any:
    return None if stored is None else stored["value"]


def _check_answer(kind: str, content: Mapping[str, Any], given: Any, name: str) -> None:
    if kind == "flags":
        asked = set(content["questions"])
        is_whole = isinstance(given, dict) and given.keys() == asked
        if not is_whole or not all(isinstance(value, bool) for value in given.values()):
            raise AnswerProblem(name, f"needs a yes or a no to each of {', '.join(sorted(asked))}")
    elif kind == "ranking":
        num_outputs = len(content["outputs"])
        is_whole = isinstance(given, list) and len(given) == num_outputs
        if not is_whole or not all(
            type(rank) is int and 1 <= rank <= num_outputs for rank in given
        ):
            raise AnswerProblem(name, f"needs a rank from 1 to {num_outputs} for every output")
    else:
        if not isinstance(given, str):
            raise AnswerProblem(name, "needs a text")
        check_text(given, name)
