"""Public NLP data sets, where the alignment tax shows (paper 4.2, App. D; prompts as given there).

    squad_v2   questions about a text that may not answer them; F1, and what is made up
    drop       questions that need counting and sorting; F1
    hellaswag  how a text goes on, of four endings; accuracy
    fr_en      French into English; BLEU (FLORES-200 in the place of WMT15)
    cnn_dm     summaries of articles; ROUGE-L
    tldr       summaries of posts; ROUGE-L

Shots are rows of the same file that are not asked: one of each text, by a hash of their ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from heedful.errors import DataError
from heedful.evaluation.items import (
    DataFile,
    Item,
    Metric,
    Row,
    Scores,
    Task,
    best,
    mean_logprobs,
    need,
    open_text,
    read_json,
    read_lines,
)
from heedful.evaluation.scorers import (
    BLEU_COLUMNS,
    bleu,
    bleu_counts,
    drop_exact,
    drop_f1,
    rouge_l,
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
    ("fixtures_tiny/drop.json",),
)
HELLASWAG = DataFile(
    "hellaswag/hellaswag_val.jsonl",
    "https://github.com/rowanz/hellaswag (data/hellaswag_val.jsonl)",
    "MIT",
)
FRENCH, ENGLISH = (
    DataFile(
        f"flores200/{language}.devtest",
        f"https://github.com/facebookresearch/flores (devtest/{language}.devtest)",
        "CC-BY-SA-4.0",
    )
    for language in ("fra_Latn", "eng_Latn")
)
CNN_DM = DataFile(
    "cnn_dm/test.jsonl",
    'https://huggingface.co/datasets/abisee/cnn_dailymail as {"article", "highlights"} lines',
    "Apache-2.0",
)
TLDR = DataFile(
    "tldr/test.jsonl",
    'https://github.com/openai/summarize-from-feedback as {"post", "summary"} lines',
    "CC-BY-4.0",
)
NOT_IN_BACKGROUND = "Not in background."
ASK_SQUAD = (
    "Answer each question using information in the preceding background paragraph.\n"
    'If there is not enough information provided, answer with "Not in background."\n\n'
)
ASK_DROP = "Answer each question using information in the preceding passage.\n\n"
ASK_HELLASWAG = "Complete each independent paragraph using common-sense reasoning.\n\n"
ASK_FR_EN = "Translate the following sentences from French into English.\n\n"
# Tokens of the paper's released samples; of translations none was cut there.
SQUAD_TOKENS, DROP_TOKENS, SUMMARY_TOKENS, TRANSLATION_TOKENS = 16, 25, 256, 128


class Example(NamedTuple):
    """One row of a data set: an item without its instruction and shots, and its right answer."""

    id: str
    cluster: str
    text: str
    answer: str
    facts: dict[str, Any]
    choices: tuple[str, ...] = ()


def with_shots(
    examples: Iterable[Example], instruction: str, shots: int, max_new_tokens: int
) -> Iterator[Item]:
    """The items of a data set behind an instruction and so many examples of other texts."""
    rows = list(examples)
    shown: dict[str, Example] = {}  # by cluster
    for row in sorted(rows, key=lambda row: hashlib.sha256(f"shot {row.id}".encode()).digest()):
        if len(shown) < shots and row.answer:
            shown.setdefault(row.cluster, row)
    if len(shown) < shots:
        raise DataError(f"{shots} shots are asked for; the data has texts for {len(shown)}")
    before = "".join(f"{row.text} {row.answer}\n\n" for row in shown.values())
    for row in rows:
        if row.cluster not in shown:
            prompt = instruction + before + row.text
            variant = f"{shots} shots"
            yield Item(row.id, row.cluster, variant, prompt, row.choices, row.facts, max_new_tokens)


def squad_items(paths: Sequence[Path], shots: int) -> Iterator[Item]:
    """Questions about paragraphs; the answer to one that its text does not answer says so."""
    return with_shots(_squad(paths[0]), ASK_SQUAD, shots, SQUAD_TOKENS)


def _squad(path: Path) -> Iterator[Example]:
    for article in need(read_json(path), "data", str(path)):
        title = need(article, "title", str(path)).replace("_", " ")
        for number, paragraph in enumerate(need(article, "paragraphs", str(path))):
            text = need(paragraph, "context", f"{path}, {title}")
            for row in need(paragraph, "qas", f"{path}, {title}"):
                name = need(row, "id", f"{path}, {title}")
                answers = [answer["text"] for answer in need(row, "answers", f"{path}, {name}")]
                facts = {
                    "references": list(dict.fromkeys(answers)) or [NOT_IN_BACKGROUND],
                    "background": text,
                }
                yield Example(
                    name,
                    f"{title} {number}",
                    f"Title: {title}\n\nBackground: {text}\n\n"
                    f"Q: {need(row, 'question', f'{path}, {name}')}\n\nA:",
                    facts["references"][0],
                    facts,
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


def hellaswag_items(paths: Sequence[Path], shots: int) -> Iterator[Item]:
    """The beginning of a text with four endings."""
    return with_shots(_hellaswag(paths[0]), ASK_HELLASWAG, shots, 0)


def _hellaswag(path: Path) -> Iterator[Example]:
    for where, row in read_lines(path):
        endings, label = need(row, "endings", where), int(need(row, "label", where))
        text = need(row, "ctx", where)
        name = str(need(row, "ind", where))
        choices = tuple(f" {ending}" for ending in endings)
        yield Example(name, text, text, endings[label], {"label": label}, choices)


def choice_scores(rows: Sequence[Row], graders: Any) -> list[Scores]:
    """Whether the right choice has the highest average log-probability per token (App. D)."""
    return [{"accuracy": float(best(mean_logprobs(row)) == row["facts"]["label"])} for row in rows]


def fr_en_items(paths: Sequence[Path], shots: int) -> Iterator[Item]:
    """Sentences of one language with the same lines of the other."""
    return with_shots(_translations(*paths), ASK_FR_EN, shots, TRANSLATION_TOKENS)


def _translations(french: Path, english: Path) -> Iterator[Example]:
    lines = []
    for path in (french, english):
        with open_text(path) as file:
            lines.append(file.read().splitlines())
    if len(lines[0]) != len(lines[1]):
        raise DataError(
            f"{french} has {len(lines[0]):,} lines, {english} {len(lines[1]):,}: line n of both "
            "must be one sentence: get both files again"
        )
    for number, (text, reference) in enumerate(zip(*lines, strict=True)):
        name = str(number)
        asked = f"French: {text}\nEnglish:"
        yield Example(name, name, asked, reference, {"reference": reference})


def translation_scores(rows: Sequence[Row], graders: Any) -> list[Scores]:
    """What each translation adds to corpus BLEU."""
    return [{**bleu_counts(row["response"], row["facts"]["reference"])} for row in rows]


def cnn_dm_items(paths: Sequence[Path], shots: int) -> Iterator[Item]:
    """Articles with the highlights that their editors wrote."""
    return with_shots(_summaries(paths[0], "article", "highlights"), "", shots, SUMMARY_TOKENS)


def tldr_items(paths: Sequence[Path], shots: int) -> Iterator[Item]:
    """Posts with the summaries that their authors wrote."""
    return with_shots(_summaries(paths[0], "post", "summary"), "", shots, SUMMARY_TOKENS)


def _summaries(path: Path, text_key: str, summary_key: str) -> Iterator[Example]:
    for number, (where, row) in enumerate(read_lines(path)):
        text, reference = need(row, text_key, where), need(row, summary_key, where)
        name = str(row.get("id", number))
        yield Example(name, name, f"{text}\n\nTL;DR:", reference, {"reference": reference})


def summary_scores(rows: Sequence[Row], graders: Any) -> list[Scores]:
    """ROUGE-L of each summary."""
    return [{"rouge_l": rouge_l(row["response"], row["facts"]["reference"])} for row in rows]


F1 = {
    "F1": Metric(("f1",), higher_is_better=True),
    "exact match": Metric(("exact",), higher_is_better=True),
}
MADE_UP = {
    "answers the unanswerable": Metric(("made_up",), higher_is_better=False),
    "answer not in the text": Metric(("unsupported",), higher_is_better=False),
}
ACCURACY = {"accuracy": Metric(("accuracy",), higher_is_better=True)}
BLEU = {"BLEU": Metric(BLEU_COLUMNS, bleu, higher_is_better=True)}
ROUGE = {"ROUGE-L": Metric(("rouge_l",), higher_is_better=True)}
NLP_TASKS = (
    Task("squad_v2", (SQUAD,), squad_items, squad_scores, F1 | MADE_UP, takes_shots=True),
    Task("drop", (DROP,), drop_items, drop_scores, F1, takes_shots=True),
    Task("hellaswag", (HELLASWAG,), hellaswag_items, choice_scores, ACCURACY, takes_shots=True),
    Task("fr_en", (FRENCH, ENGLISH), fr_en_items, translation_scores, BLEU, takes_shots=True),
    Task("cnn_dm", (CNN_DM,), cnn_dm_items, summary_scores, ROUGE, takes_shots=True),
    Task("tldr", (TLDR,), tldr_items, summary_scores, ROUGE, takes_shots=True),
)
