"""The likeliest or named answer about a short text: HellaSwag, RTE, SST and WSC (paper App. D).

hellaswag  how a text goes on, of four endings; accuracy
rte        whether a sentence follows from a passage; accuracy
sst        whether a snippet speaks well of a film; accuracy
wsc        which noun a pronoun refers to; accuracy over candidates
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from heedful.errors import DataError
from heedful.evaluation.examples import Example, with_shots
from heedful.evaluation.items import (
    DataFile,
    Item,
    Metric,
    Row,
    Scores,
    Task,
    mean_logprobs,
    need,
    read_csv,
    read_lines,
    share_of_best,
)
from heedful.evaluation.scorers import squad_normalize

HELLASWAG = DataFile(
    "hellaswag/hellaswag_val.jsonl",
    "https://github.com/rowanz/hellaswag (data/hellaswag_val.jsonl)",
    "MIT",
)
RTE = DataFile(
    "rte/val.jsonl",
    "https://super.gluebenchmark.com/tasks (RTE: val.jsonl; GLUE's dev.tsv is read too)",
    "none stated; texts of the PASCAL challenges, given out for research",
    ("rte/dev.tsv", "RTE/val.jsonl", "RTE/dev.tsv"),
)
SST = DataFile(
    "sst/dev.tsv",
    "https://gluebenchmark.com/tasks (SST-2: dev.tsv)",
    "none stated; sentences of film reviews, given out for research",
    ("SST-2/dev.tsv",),
)
WSC = DataFile(
    "wsc/val.jsonl",
    "https://super.gluebenchmark.com/tasks (WSC: val.jsonl; the collection WSCollection.xml of "
    "https://cs.nyu.edu/~davise/papers/WinogradSchemas is read too)",
    "CC-BY-4.0",
    ("WSC/val.jsonl", "wsc/WSCollection.xml"),
)
ASK_HELLASWAG = "Complete each independent paragraph using common-sense reasoning.\n\n"
ASK_SST = "For each snippet of text, label the sentiment of the text as positive or negative.\n\n"
ASK_WSC = (
    "Final Exam with Answer Key\nInstructions: Please carefully read the following passages. For "
    "each passage, you must identify which noun the pronoun marked in bold refers to.\n\n"
)
# The paper does not say; the longest noun of the collection has 8 words.
WSC_TOKENS = 16


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


def rte_items(paths: Sequence[Path], shots: int) -> Iterator[Item]:
    """A passage and a sentence that follows from it or not."""
    return with_shots(_rte(paths[0]), "", shots, 0)


def _rte(path: Path) -> Iterator[Example]:
    glue = ".tsv" in path.suffixes  # the fields of GLUE's file have other names
    premise, hypothesis, name = (
        ("sentence1", "sentence2", "index") if glue else ("premise", "hypothesis", "idx")
    )
    for where, row in read_csv(path, "\t") if glue else read_lines(path):
        label = need(row, "label", where)
        if label not in ("entailment", "not_entailment"):
            raise DataError(f"{where}: label is {label!r}: entailment or not_entailment is needed")
        text = need(row, premise, where)
        claim = need(row, hypothesis, where).strip().rstrip(".")
        asked = (
            f"Passage: {text}\nQuestion: From this passage can one reasonably conclude that "
            f"{claim}?\nAnswer:"
        )
        right = "Yes" if label == "entailment" else "No"
        facts = {"label": int(right == "No")}
        yield Example(str(need(row, name, where)), text, asked, right, facts, (" Yes", " No"))


def sst_items(paths: Sequence[Path], shots: int) -> Iterator[Item]:
    """Snippets of film reviews."""
    return with_shots(_sst(paths[0]), ASK_SST, shots, 0)


def _sst(path: Path) -> Iterator[Example]:
    for number, (where, row) in enumerate(read_csv(path, "\t")):
        text, label = need(row, "sentence", where).strip(), need(row, "label", where)
        if label not in ("0", "1"):
            raise DataError(f"{where}: label is {label!r}: 0 (negative) or 1 (positive) is needed")
        right = "positive" if label == "1" else "negative"
        name, facts = str(number), {"label": int(right == "negative")}
        choices = (" positive", " negative")
        yield Example(name, name, f"Text: {text}\nLabel:", right, facts, choices)


def choice_scores(rows: Sequence[Row], graders: Any) -> list[Scores]:
    """Whether the right choice has the highest average log-probability per token (App. D).

    Where several have it the right one counts as one drawn among them.
    """
    return [{"accuracy": share_of_best(mean_logprobs(row), row["facts"]["label"])} for row in rows]


def wsc_items(paths: Sequence[Path], shots: int) -> Iterator[Item]:
    """Passages with a pronoun between stars, of SuperGLUE's file or of the whole collection."""
    rows = _collection(paths[0]) if ".xml" in paths[0].suffixes else _superglue_wsc(paths[0])
    return with_shots(rows, ASK_WSC, shots, WSC_TOKENS)


def _superglue_wsc(path: Path) -> Iterator[Example]:
    """A candidate for each row; one that is wrong does not say what is right, and is no shot."""
    for where, row in read_lines(path):
        target, right = need(row, "target", where), need(row, "label", where)
        noun, bare = need(target, "span1_text", where), need(target, "span2_text", where)
        start = need(target, "span2_index", where)
        text = mark_pronoun(need(row, "text", where), start, bare, where)
        facts = {"candidates": {noun: bool(right)}}
        name = str(need(row, "idx", where))
        yield Example(name, text, pronoun_text(text, bare), noun if right else "", facts)


def mark_pronoun(text: str, place: int, bare: str, where: str) -> str:
    """A passage with its word number ``place``, the pronoun, between stars."""
    words = text.split()
    found = words[place] if place < len(words) else ""
    if not found.startswith(bare):
        raise DataError(f"{where}: word {place} is {found!r}, the pronoun is {bare!r}")
    words[place] = found.replace(bare, f"*{bare}*", 1)
    return " ".join(words)


def pronoun_text(text: str, bare: str) -> str:
    """A passage and the question whom its pronoun means."""
    return (
        f"Passage: {text}\nQuestion: In the passage above, what does the pronoun "
        f'"*{bare}*" refer to?\nAnswer:'
    )


def _collection(path: Path) -> Iterator[Example]:
    """Two candidates for each passage, of which one is right."""
    try:
        schemas = ElementTree.parse(path).getroot().findall("schema")
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: not XML ({error}): get the file again") from error
    for number, schema in enumerate(schemas, start=1):
        where = f"{path}, schema {number}"
        pieces = [_words_of(schema, f"text/{part}", where) for part in ("txt1", "pron", "txt2")]
        nouns = [" ".join((answer.text or "").split()) for answer in schema.iter("answer")]
        letter = _words_of(schema, "correctAnswer", where).strip(". ")
        if letter not in ("A", "B") or len(nouns) != 2 or not all(nouns):
            raise DataError(f"{where}: two answers, A or B, are needed: get the file again")
        before, bare, after = pieces
        # commas and full stops stand by themselves in some of the passages
        gap = "" if after[:1] in tuple(",.;:'") else " "
        text = f"{before} *{bare}*{gap}{after}".strip()
        right = nouns["AB".index(letter)]
        facts = {"candidates": {noun: noun == right for noun in nouns}}
        # passages come in twins that differ in a word
        cluster = " / ".join(sorted(noun.lower() for noun in nouns))
        yield Example(str(number), cluster, pronoun_text(text, bare), right, facts)


def _words_of(schema: ElementTree.Element, path: str, where: str) -> str:
    text = schema.findtext(path)
    if text is None:
        raise DataError(f"{where}: {path} is missing: get the file again")
    return " ".join(text.split())


def wsc_scores(rows: Sequence[Row], graders: Any) -> list[Scores]:
    """The share of candidates that are told right from wrong by what the answer names.

    An answer names a candidate where one text contains the other (App. D), letter case,
    punctuation and articles left aside.
    """
    found: list[Scores] = []
    for row in rows:
        said = squad_normalize(row["response"])
        right = [
            bool(said and noun) and (noun in said or said in noun)
            for noun in map(squad_normalize, row["facts"]["candidates"])
        ]
        labels = list(row["facts"]["candidates"].values())
        share = sum(a == b for a, b in zip(right, labels, strict=True)) / len(labels)
        found.append({"accuracy": share})
    return found


ACCURACY = {"accuracy": Metric(("accuracy",), higher_is_better=True)}
SENTENCE_TASKS = (
    Task("hellaswag", (HELLASWAG,), hellaswag_items, choice_scores, ACCURACY, takes_shots=True),
    Task("rte", (RTE,), rte_items, choice_scores, ACCURACY, takes_shots=True),
    Task("sst", (SST,), sst_items, choice_scores, ACCURACY, takes_shots=True),
    Task("wsc", (WSC,), wsc_items, wsc_scores, ACCURACY, takes_shots=True),
)
