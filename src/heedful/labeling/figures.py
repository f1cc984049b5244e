"""What the store knows, as the statistics read it: one agreement, one line for each labeler."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from heedful.labeling.agreement import Answer, RankingAgreement, ranking_agreement
from heedful.labeling.quality import LabelerQuality, labeler_quality
from heedful.store import history, labels
from heedful.store.labels import RankingRow


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a project: ``quality`` by user number, ``agreement`` None without overlap."""

    agreement: RankingAgreement | None
    quality: dict[int, LabelerQuality]


def figures(connection: Any, project_id: int) -> Figures:
    """Agreement over shared work (neither gold nor drift tasks), and quality of each labeler."""
    rows = list(labels.ranking_rows(connection, project_id))
    answers = answers_of(rows, labels.output_lengths(connection, project_id))
    pools = {str(row.task_id): row.pool for row in rows}
    outputs = {row.task_id: row.outputs for row in rows}
    gold = {
        str(task): dict(zip(map(str, outputs[task]), answer["ranks"], strict=True))
        for task, answer in history.reference_answers(connection, project_id).items()
        if task in outputs
    }
    constant = {task for task, pool in pools.items() if pool == "drift"}
    chosen = {task for task, pool in pools.items() if pool != "work"}
    return Figures(
        agreement=ranking_agreement([one for one in answers if one.prompt not in chosen]),
        quality={
            int(name): one
            for name, one in labeler_quality(answers, gold=gold, constant=constant).items()
        },
    )


def answers_of(rows: Iterable[RankingRow], lengths: dict[int, int]) -> list[Answer]:
    """The rankings in the order in which their labelers saw the outputs; a task is a prompt."""
    found = []
    for row in rows:
        shown = row.display_order
        found.append(
            Answer(
                prompt=str(row.task_id),
                labeler=str(row.labeler_id),
                outputs=tuple(str(row.outputs[place]) for place in shown),
                ranks=tuple(row.ranks[place] for place in shown),
                lengths=tuple(lengths[row.outputs[place]] for place in shown),
                ratings=tuple(row.ratings[place] for place in shown),
                active_s=row.active_s,
                submitted_s=row.at,
            )
        )
    return found
