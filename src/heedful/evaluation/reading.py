"""Questions about a text: SQuAD v2, DROP and QuAC (paper App. D; prompts as given there).

squad_v2   questions about a text that may not answer them; F1, and what is made up
drop       questions that need counting and sorting; F1
quac       a conversation about a text; F1 over several people's answers
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from heedful.evaluation.examples import Example, with_shots
from heedful.evaluation.items import DataFile, Item, Metric, Row, Scores, Task, need, read_json
from heedful.evaluation.scorers import (
    drop_exact,
    drop_f1,
    quac_f1,
    quac_human_f1,
    quac_references,
    squad_exact,
    squad_f1,
    squad_normalize,
)

SQUAD = DataFile(
    "squad/dev-v2.0.json",
    "https://rajpurkar.github.io/SQuAD-explorer (dev-v2.0.json; a sample of its training split "
    "under the name squad_v2_train_sample.json is read too)",
    "CC-BY-SA-4.0",
    ("squad/squad_v2_train_sample.json",),
)
DROP = DataFile(
    "drop/drop_dataset_dev.json",
    "https://allenai.org/data/drop (drop_dataset_dev.json)",
    "CC-BY-SA-4.0",
)
QUAC = DataFile(
    "quac/val_v0.2.json",
    "https://quac.ai (val_v0.2.json)",
    "CC-BY-SA-4.0",
)
NOT_IN_BACKGROUND = "Not in background."
DONT_KNOW = "I don't know."
CANNOT_ANSWER = "CANNOTANSWER"  # of QuAC's file
ASK_SQUAD = (
    "Answer each question using information in the preceding background paragraph.\n"
    'If there is not enough information provided, answer with "Not in background."\n\n'
)
ASK_DROP = "Answer each question using information in the preceding passage.\n\n"
ASK_QUAC = (
    "Answer each question using information in the preceding background paragraph.\n"
    'If there is not enough information provided, answer with "I don\'t know."\n\n'
)
# Tokens of the paper's released samples. It released none of QuAC, whose answers have 15 words on
# average (Choi et al. 2018).
SQUAD_TOKENS, DROP_TOKENS, QUAC_TOKENS = 16, 25, 50
# Questions on whose answer people agree less than this are not counted (QuAC's own scorer).
MIN_HUMAN_F1 = 0.4


class SquadRow(NamedTuple):
    """A question about a text; ``references`` is ``[NOT_IN_BACKGROUND]`` where it has no answer."""

    id: str
    cluster: str  # of a text
    title: str
    background: str
    question: str
    references: list[str]


def squad_items(paths: Sequence[Path], shots: int) -> Iterator[Item]:
    """Questions about paragraphs; the answer to one that its text does not answer says so."""
    examples = (
        Example(
            row.id,
            row.cluster,
            squad_text(row.title, row.background, row.question),
            row.references[0],
            {"references": row.references, "background": row.background},
        )
        for row in squad_examples(paths[0])
    )
    return with_shots(examples, ASK_SQUAD, shots, SQUAD_TOKENS)


def squad_text(title: str, background: str, question: str) -> str:
    """A question behind its text, as the paper asks it."""
    return f"Title: {title}\n\nBackground: {background}\n\nQ: {question}\n\nA:"


def squad_examples(path: Path) -> Iterator[SquadRow]:
    """The questions of a file in SQuAD's form, of version 1.1 or 2.0."""
    for article in need(read_json(path), "data", str(path)):
        title = str(article.get("title") or "").replace("_", " ")
        for number, paragraph in enumerate(need(article, "paragraphs", str(path))):
            text = need(paragraph, "context", f"{path}, {title}")
            for row in need(paragraph, "qas", f"{path}, {title}"):
                name = need(row, "id", f"{path}, {title}")
                answers = [answer["text"] for answer in need(row, "answers", f"{path}, {name}")]
                yield SquadRow(
                    name,
                    f"{title} {number}",
                    title,
                    text,
                    need(row, "question", f"{path}, {name}"),
                    list(dict.fromkeys(answers)) or [NOT_IN_BACKGROUND],
                )


def squad_scores(rows: Sequence[Row], graders: Any) -> list[Scores]:
    """F1 and exact match; where the text has no answer, whether one was made up all the same.

    Of answers given, whether their words do not stand together in the text.
    """
    found: list[Scores] = []
    for row in rows:
        said, references = row["response"], row["facts"]["references"]
        scores: Scores = {
            "f1": 100 * squad_f1(said, references),
            "exact": 100 * squad_exact(said, references),
        }
        given = squad_normalize(said)
        abstains = given == squad_normalize(NOT_IN_BACKGROUND)
        if references == [NOT_IN_BACKGROUND]:
            scores["made_up"] = float(not abstains and bool(given))
        if not abstains and given:
            background = squad_normalize(row["facts"]["background"])
            scores["unsupported"] = float(f" {given} " not in f" {background} ")
        found.append(scores)
    return found


def drop_items(paths: Sequence[Path], shots: int) -> Iterator[Item]:
    """Questions about passages whose answers are numbers, dates or spans."""
    return with_shots(_drop(paths[0]), ASK_DROP, shots, DROP_TOKENS)


def _drop(path: Path) -> Iterator[Example]:
    for passage_id, passage in read_json(path).items():
        text = need(passage, "passage", f"{path}, {passage_id}")
        for row in need(passage, "qa_pairs", f"{path}, {passage_id}"):
            name = need(row, "query_id", f"{path}, {passage_id}")
            given = [need(row, "answer", f"{path}, {name}"), *row.get("validated_answers", ())]
            references = [spans for answer in given if (spans := drop_spans(answer))]
            if references:
                yield Example(
                    name,
                    passage_id,
                    f"Passage: {text}\nQuestion: {need(row, 'question', name)}\nAnswer:",
                    ", ".join(references[0]),
                    {"references": references},
                )


def drop_spans(answer: Mapping[str, Any]) -> list[str]:
    """The spans of an answer of DROP's file: a number, else its spans, else a date."""
    if answer.get("number"):
        return [str(answer["number"])]
    if answer.get("spans"):
        return list(answer["spans"])
    date = answer.get("date") or {}
    said = " ".join(date.get(key, "") for key in ("day", "month", "year")).strip()
    return [said] if said else []


def drop_scores(rows: Sequence[Row], graders: Any) -> list[Scores]:
    """F1 and exact match of each answer as one span."""
    return [
        {
            "f1": 100 * drop_f1(row["response"], row["facts"]["references"]),
            "exact": 100 * drop_exact(row["response"], row["facts"]["references"]),
        }
        for row in rows
    ]


def quac_items(paths: Sequence[Path], shots: int) -> Iterator[Item]:
    """Questions of conversations, each behind the turns before it with people's answers."""
    return with_shots(_quac(paths[0]), ASK_QUAC, shots, QUAC_TOKENS)


def _quac(path: Path) -> Iterator[Example]:
    for article in need(read_json(path), "data", str(path)):
        title = need(article, "title", str(path))
        for paragraph in need(article, "paragraphs", f"{path}, {title}"):
            text = need(paragraph, "context", f"{path}, {title}").removesuffix(CANNOT_ANSWER)
            before = f"TITLE: {title}\n\nPARAGRAPH: {text.strip()}\n\n"
            for row in need(paragraph, "qas", f"{path}, {title}"):
                name = need(row, "id", f"{path}, {title}")
                given = [answer["text"] for answer in need(row, "answers", f"{path}, {name}")]
                own = need(need(row, "orig_answer", f"{path}, {name}"), "text", f"{path}, {name}")
                said = DONT_KNOW if own == CANNOT_ANSWER else own
                asked = f"{before}Q: {need(row, 'question', f'{path}, {name}')}\n\nA:"
                # the id ends in the number of the turn; a dialogue is one cluster
                cluster = name.partition("_q#")[0]
                yield Example(name, cluster, asked, said, {"references": given})
                before = f"{asked} {said}\n\n"


def quac_scores(rows: Sequence[Row], graders: Any) -> list[Scores]:
    """F1 by QuAC's own scorer; None where people do not agree on an answer themselves.

    Saying that one does not know is the file's word for a question without an answer.
    """
    found: list[Scores] = []
    for row in rows:
        references = quac_references(row["facts"]["references"], CANNOT_ANSWER)
        abstains = squad_normalize(row["response"]) == squad_normalize(DONT_KNOW)
        said = CANNOT_ANSWER if abstains else row["response"]
        agreed = quac_human_f1(references) >= MIN_HUMAN_F1
        found.append({"f1": 100 * quac_f1(said, references) if agreed else None})
    return found


EXACT = {"exact match": Metric(("exact",), higher_is_better=True)}
F1 = {"F1": Metric(("f1",), higher_is_better=True)}
MADE_UP = {
    "answers the unanswerable": Metric(("made_up",), higher_is_better=False),
    "answer not in the text": Metric(("unsupported",), higher_is_better=False),
}
READING_TASKS = (
    Task("squad_v2", (SQUAD,), squad_items, squad_scores, F1 | EXACT | MADE_UP, takes_shots=True),
    Task("drop", (DROP,), drop_items, drop_scores, F1 | EXACT, takes_shots=True),
    Task("quac", (QUAC,), quac_items, quac_scores, F1, takes_shots=True),
)
