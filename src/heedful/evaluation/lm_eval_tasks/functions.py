"""What the paper's task files for lm-evaluation-harness need beyond templates: heedful's scorers.

Rows are those of the data sets on the Hugging Face hub, which differ from the published files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from heedful.evaluation.reading import (
    CANNOT_ANSWER,
    DONT_KNOW,
    NOT_IN_BACKGROUND,
    drop_scores,
    drop_spans,
    quac_scores,
    squad_scores,
)
from heedful.evaluation.scorers import rouge_l
from heedful.evaluation.sentences import mark_pronoun, pronoun_text, wsc_scores

Doc = Mapping[str, Any]
Scores = dict[str, float]


def squad_results(doc: Doc, results: Sequence[str]) -> Scores:
    """F1 and exact match of an answer to a question of SQuAD v2."""
    references = list(dict.fromkeys(doc["answers"]["text"])) or [NOT_IN_BACKGROUND]
    facts = {"references": references, "background": doc["context"]}
    (found,) = squad_scores([{"response": results[0].strip(), "facts": facts}], None)
    return {"f1": found["f1"] or 0.0, "exact": found["exact"] or 0.0}


def drop_target(doc: Doc) -> str:
    """The first answer, as an example shows it."""
    return ", ".join(drop_references(doc)[0])


def drop_references(doc: Doc) -> list[list[str]]:
    """The spans of every answer; the hub has the validated ones as columns."""
    validated = doc["validated_answers"]
    keys = ("number", "date", "spans")
    others = zip(*(validated[key] for key in keys), strict=True)
    given = [doc["answer"], *(dict(zip(keys, values, strict=True)) for values in others)]
    return [spans for answer in given if (spans := drop_spans(answer))]


def drop_results(doc: Doc, results: Sequence[str]) -> Scores:
    """F1 and exact match of an answer to a question of DROP."""
    facts = {"references": drop_references(doc)}
    (found,) = drop_scores([{"response": results[0].strip(), "facts": facts}], None)
    return {"f1": found["f1"] or 0.0, "exact": found["exact"] or 0.0}


def quac_turns(dataset: Any) -> Any:
    """A row for every turn of every conversation, behind the turns before it."""
    turns: list[dict[str, Any]] = []
    for doc in dataset:
        text = doc["context"].removesuffix(CANNOT_ANSWER).strip()
        before = f"TITLE: {doc['wikipedia_page_title']}\n\nPARAGRAPH: {text}\n\n"
        own = doc["orig_answers"]["texts"]
        for question, given, said in zip(
            doc["questions"], doc["answers"]["texts"], own, strict=True
        ):
            asked = f"{before}Q: {question}\n\nA:"
            answer = DONT_KNOW if said == CANNOT_ANSWER else said
            turn = {"text": asked, "answer": answer, "references": list(given)}
            turns.append(turn | {"background": text})
            before = f"{asked} {answer}\n\n"
    return type(dataset).from_list(turns)


def quac_results(doc: Doc, results: Sequence[str]) -> Scores:
    """F1 of a turn of QuAC; nothing where people do not agree on its answer themselves."""
    facts = {"references": doc["references"]}
    (found,) = quac_scores([{"response": results[0].strip(), "facts": facts}], None)
    return {} if found["f1"] is None else {"f1": found["f1"]}


def wsc_right_ones(dataset: Any) -> Any:
    """The rows whose candidate is the right one: only these can be examples."""
    return dataset.filter(lambda doc: doc["label"] == 1)


def wsc_text(doc: Doc) -> str:
    """A passage with its pronoun in bold, and the question."""
    bare = doc["span2_text"]
    return pronoun_text(mark_pronoun(doc["text"], doc["span2_index"], bare, "row"), bare)


def wsc_results(doc: Doc, results: Sequence[str]) -> Scores:
    """Whether the candidate is told right from wrong by what the answer names."""
    facts = {"candidates": {doc["span1_text"]: bool(doc["label"])}}
    (found,) = wsc_scores([{"response": results[0].strip(), "facts": facts}], None)
    return {"accuracy": found["accuracy"] or 0.0}


def cnn_dm_results(doc: Doc, results: Sequence[str]) -> Scores:
    """ROUGE-L of a summary of an article."""
    return {"rouge_l": rouge_l(results[0].strip(), doc["highlights"])}


def tldr_results(doc: Doc, results: Sequence[str]) -> Scores:
    """ROUGE-L of a summary of a post."""
    return {"rouge_l": rouge_l(results[0].strip(), doc["completion"].strip())}
