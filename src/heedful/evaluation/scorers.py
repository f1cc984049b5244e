"""Scores of written answers by their words: SQuAD v2, DROP and QuAC, BLEU and ROUGE-L.

F1 is our own code to the published definitions (Rajpurkar et al. 2018; Dua et al. 2019; Choi et al.
2018). BLEU is counted by sacrebleu, ROUGE-L by rouge-score (extra ``nlp``).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from heedful.errors import MissingExtraError
from heedful.statistics.intervals import Floats

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
BLEU_ORDER = 4
BLEU_COLUMNS = (
    *(f"matches_{n}" for n in range(1, BLEU_ORDER + 1)),
    *(f"ngrams_{n}" for n in range(1, BLEU_ORDER + 1)),
    "length",
    "reference_length",
)


def squad_normalize(text: str) -> str:
    """A text as SQuAD compares it: lower case, without punctuation, articles and extra spaces."""
    plain = text.lower().translate(NO_PUNCTUATION)
    return " ".join(ARTICLES.sub(" ", plain).split())


def squad_f1(answer: str, references: Sequence[str]) -> float:
    """The largest F1 over the references of the words in common, counted as often as they occur."""
    return max(_word_f1(squad_normalize(answer), squad_normalize(text)) for text in references)


def squad_exact(answer: str, references: Sequence[str]) -> float:
    """1 where the answer is one of the references, as SQuAD compares them."""
    return float(squad_normalize(answer) in {squad_normalize(text) for text in references})


def _word_f1(answer: str, reference: str) -> float:
    given, wanted = answer.split(), reference.split()
    if not given or not wanted:  # saying nothing is right where nothing is the answer
        return float(given == wanted)
    common = sum((Counter(given) & Counter(wanted)).values())
    return 2 * common / (len(given) + len(wanted))


def drop_f1(answer: str | Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The largest F1 over the references, each of one or more spans, to two digits.

    Spans are bags of words, matched one to one for the largest sum; a span whose reference has
    numbers counts only with one of them in it. Spans without a partner count 0.
    """
    spans = [answer] if isinstance(answer, str) else list(answer)
    return max(_drop_f1(spans, reference) for reference in references)


def drop_exact(answer: str | Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """1 where the spans are those of a reference, as DROP compares them."""
    spans = [answer] if isinstance(answer, str) else list(answer)
    given = sorted(map(drop_normalize, spans))
    return float(any(given == sorted(map(drop_normalize, other)) for other in references))


def drop_normalize(text: str) -> str:
    """A span as DROP compares it: as SQuAD, but numbers are numbers and hyphens separate words."""
    words = []
    for part in re.split(" |-", text):
        word = part.lower()
        if not _is_number(word):
            word = word.translate(NO_PUNCTUATION)
        word = str(float(word)) if _is_number(word) else word
        words += ARTICLES.sub(" ", word).split()
    return " ".join(words)


def _drop_f1(spans: Sequence[str], reference: Sequence[str]) -> float:
    from scipy.optimize import linear_sum_assignment

    given = [set(drop_normalize(span).split()) for span in spans]
    wanted = [set(drop_normalize(span).split()) for span in reference]
    table = np.array([[_bag_f1(bag, other) for bag in given] for other in wanted])
    rows, columns = linear_sum_assignment(-table)
    return round(float(table[rows, columns].sum()) / max(table.shape), 2)


def _bag_f1(given: set[str], wanted: set[str]) -> float:
    numbers = {word for word in wanted if _is_number(word)}
    if numbers and not numbers & given:
        return 0.0
    common = len(given & wanted)
    precision = common / len(given) if given else 1.0
    recall = common / len(wanted) if wanted else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def quac_references(answers: Sequence[str], none: str) -> list[str]:
    """The answers that count: ``[none]`` where at least half say there is none, else the others."""
    spans = [text for text in answers if text != none]
    return [none] if 2 * len(spans) <= len(answers) else spans


def quac_f1(answer: str, references: Sequence[str]) -> float:
    """The largest F1 over the references, as the mean over leaving out each of several in turn.

    So an answer is measured as a person is, whose own answer is not among those compared with.
    """
    values = [_overlap(answer, text) for text in references]
    return _mean_of_largest([values] * len(values)) if len(values) > 1 else values[0]


def quac_human_f1(references: Sequence[str]) -> float:
    """How well the references agree: each against the nearest of the others; 1 of a single one."""
    if len(references) == 1:
        return 1.0
    return _mean_of_largest([[_overlap(one, text) for text in references] for one in references])


def _mean_of_largest(table: Sequence[Sequence[float]]) -> float:
    """The mean over rows of the largest value that is not on the diagonal."""
    largest = [max(v for j, v in enumerate(row) if j != i) for i, row in enumerate(table)]
    return sum(largest) / len(largest)


def _overlap(answer: str, reference: str) -> float:
    """F1 of the words in common; 0 where there are no words, unlike SQuAD's."""
    given, wanted = squad_normalize(answer), squad_normalize(reference)
    return _word_f1(given, wanted) if given and wanted else 0.0


def bleu_counts(answer: str, reference: str) -> dict[str, float]:
    """What a sentence adds to corpus BLEU, by ``BLEU_COLUMNS``: n-grams matched and made, lengths.

    Tokenized and counted by sacrebleu (13a, the default of its signature).
    """
    found = _bleu().sentence_score(answer, [reference])
    lengths = [found.sys_len, found.ref_len]
    values = [*found.counts, *found.totals, *lengths]
    return dict(zip(BLEU_COLUMNS, map(float, values), strict=True))


def bleu(means: Floats) -> Floats:
    """Corpus BLEU, 0 to 100, of mean counts (S, 10): no smoothing, which the sums alone allow.

    100 * min(1, exp(1 - reference / length)) * the geometric mean of the four precisions.
    """
    matches, made = means[:, :BLEU_ORDER], means[:, BLEU_ORDER : 2 * BLEU_ORDER]
    length, reference = means[:, -2], means[:, -1]
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(made > 0, matches / made, 0.0)
        precision = np.exp(np.log(shares).mean(axis=1))
        brevity = np.where(length > 0, np.exp(np.minimum(0.0, 1 - reference / length)), 0.0)
    return 100 * brevity * precision


@cache
def _bleu() -> Any:
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise MissingExtraError("BLEU needs sacrebleu: pip install 'heedful[nlp]'") from error
    return BLEU(effective_order=True)  # says nothing of the counts


def rouge_l(answer: str, reference: str) -> float:
    """The F-measure of ROUGE-L of an answer, with stemmed words, by rouge-score."""
    return _rouge().score(reference, answer)["rougeL"].fmeasure


@cache
def _rouge() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise MissingExtraError("ROUGE needs rouge-score: pip install 'heedful[nlp]'") from error
    return RougeScorer(["rougeL"], use_stemmer=True)
