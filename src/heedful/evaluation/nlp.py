"""Public NLP data sets, where the alignment tax shows (paper 4.2, App. D; prompts as given there).

squad_v2, drop, quac         questions about a text (reading.py)
hellaswag, rte, sst, wsc     answers about a few sentences (sentences.py)
fr_en, wmt15_fr_en           French into English, of FLORES-200 and of WMT15; BLEU
cnn_dm, tldr                 summaries of articles and of posts; ROUGE-L
"""

from __future__ import annotations

import html
import re
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
    need,
    open_text,
    read_lines,
)
from heedful.evaluation.reading import READING_TASKS
from heedful.evaluation.scorers import BLEU_COLUMNS, bleu, bleu_counts, rouge_l
from heedful.evaluation.sentences import SENTENCE_TASKS

FRENCH, ENGLISH = (
    DataFile(
        f"flores200/{language}.devtest",
        f"https://github.com/facebookresearch/flores (devtest/{language}.devtest)",
        "CC-BY-SA-4.0",
    )
    for language in ("fra_Latn", "eng_Latn")
)
WMT15_FRENCH, WMT15_ENGLISH = (
    DataFile(
        f"wmt15/newsdiscusstest2015-fren-{side}.{language}.sgm",
        "https://www.statmt.org/wmt15 (test sets, newsdiscusstest2015-fren), or from sacrebleu as "
        f"lines (sacrebleu -t wmt15 -l fr-en --echo {side} > wmt15/wmt15.fr-en.{side})",
        "none stated; given out for research",
        (f"wmt15/wmt15.fr-en.{side}",),
    )
    for side, language in (("src", "fr"), ("ref", "en"))
)
SEGMENT = re.compile(r"<seg[^>]*>(.*?)</seg>", re.DOTALL)
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
ASK_FR_EN = "Translate the following sentences from French into English.\n\n"
# Tokens of the paper's released samples; of translations none was cut there.
SUMMARY_TOKENS, TRANSLATION_TOKENS = 256, 128


def fr_en_items(paths: Sequence[Path], shots: int) -> Iterator[Item]:
    """Sentences of one language with the same lines of the other."""
    return with_shots(_translations(*paths), ASK_FR_EN, shots, TRANSLATION_TOKENS)


def _translations(french: Path, english: Path) -> Iterator[Example]:
    lines = [_sentences(path) for path in (french, english)]
    if len(lines[0]) != len(lines[1]):
        raise DataError(
            f"{french} has {len(lines[0]):,} lines, {english} {len(lines[1]):,}: line n of both "
            "must be one sentence: get both files again"
        )
    for number, (text, reference) in enumerate(zip(*lines, strict=True)):
        name = str(number)
        asked = f"French: {text}\nEnglish:"
        yield Example(name, name, asked, reference, {"reference": reference})


def _sentences(path: Path) -> list[str]:
    """The lines of a file, or the segments of one in WMT's SGM."""
    with open_text(path) as file:
        text = file.read()
    if ".sgm" not in path.suffixes:
        return [line.strip() for line in text.removesuffix("\n").split("\n")]
    return [" ".join(html.unescape(part).split()) for part in SEGMENT.findall(text)]


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


BLEU = {"BLEU": Metric(BLEU_COLUMNS, bleu, higher_is_better=True)}
ROUGE = {"ROUGE-L": Metric(("rouge_l",), higher_is_better=True)}
NLP_TASKS = (
    *READING_TASKS,
    *SENTENCE_TASKS,
    Task("fr_en", (FRENCH, ENGLISH), fr_en_items, translation_scores, BLEU, takes_shots=True),
    Task(
        "wmt15_fr_en",
        (WMT15_FRENCH, WMT15_ENGLISH),
        fr_en_items,
        translation_scores,
        BLEU,
        takes_shots=True,
    ),
    Task("cnn_dm", (CNN_DM,), cnn_dm_items, summary_scores, ROUGE, takes_shots=True),
    Task("tldr", (TLDR,), tldr_items, summary_scores, ROUGE, takes_shots=True),
)
