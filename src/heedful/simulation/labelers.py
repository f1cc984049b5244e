"""Simulated labelers: people who see the hidden utility through their own weights and noise.

Candidates are screened as in the paper (App. B.1); those who pass become the training labelers,
held-out labelers are drawn without screening. One noise scale, common to all, is fitted so that
training labelers agree as often as people did (about 73 % of the pairs that neither ties).
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from heedful.errors import ConfigError, DataError
from heedful.records import METADATA_FIELDS, Cohort, Rating
from heedful.simulation.responses import ErrorRates, Slips, compose, ideal_response
from heedful.simulation.tasks import Task, make_task
from heedful.simulation.utility import PARTS, Assessment, assess, weighted_utility
from heedful.simulation.world import World

TARGET_AGREEMENT = 0.73  # paper section 3.4: 72.6 +- 1.5 % between training labelers
CUTOFFS = {"flags": 0.75, "rankings": 0.75, "demonstrations": 6.0}  # paper App. B.1, soft
_SCREENING_NOISE = 1.0  # noise scale while screening, before the fit
_NOISE_RANGE = (0.02, 8.0)
_MAX_PILOT_PAIRS = 3000

Pilot = Sequence[tuple[Task, Sequence[str]]]


@dataclass(frozen=True, slots=True)
class SimulatedLabeler:
    """One labeler: what they care about, how steady they are, and which mistakes they make."""

    id: str
    cohort: Cohort
    weights: dict[str, float]  # over utility.PARTS
    noise: float  # standard deviation in utility, before the pool's noise scale
    tie_width: float  # utilities closer than this are tied
    flag_error: float  # share of true flags that are missed; a tenth of it is raised for nothing
    errors: ErrorRates = field(default_factory=ErrorRates)

    def value(self, assessment: Assessment, emphasis: Mapping[str, float] | None = None) -> float:
        """The utility as this labeler sees it, without noise."""
        weights = self.weights
        if emphasis:
            weights = {p: w * emphasis.get(p, 1.0) for p, w in weights.items()}
        return weighted_utility(assessment.parts, weights)


def rank(
    world: World,
    labeler: SimulatedLabeler,
    task: Task,
    texts: Sequence[str],
    finished: Sequence[bool],
    rng: random.Random,
    *,
    noise_scale: float = 1.0,
    emphasis: Mapping[str, float] | None = None,
) -> tuple[list[int], list[Rating]]:
    """The labeler's dense ranks (1 best, equal numbers tie) and ratings of the completions.

    Identical completions always tie. ``emphasis`` multiplies the weights of utility parts.
    """
    seen: dict[tuple[str, bool], tuple[float, Rating]] = {}
    for key in zip(texts, finished, strict=True):
        if key not in seen:
            assessment = assess(world, task, *key)
            value = labeler.value(assessment, emphasis)
            value += rng.gauss(0.0, labeler.noise * noise_scale)
            seen[key] = value, _rate(labeler, value, assessment, rng)
    found = [seen[key] for key in zip(texts, finished, strict=True)]
    return _dense_ranks([v for v, _ in found], labeler.tie_width), [r for _, r in found]


def _rate(
    labeler: SimulatedLabeler, value: float, assessment: Assessment, rng: random.Random
) -> Rating:
    flags: dict[str, bool | None] = {}
    for name in METADATA_FIELDS:
        flag = assessment.flags[name]
        if flag is not None:
            wrong = labeler.flag_error if flag else labeler.flag_error / 10
            flag = flag != (rng.random() < wrong)
        flags[name] = flag
    return Rating(min(7, max(1, round(4 + 1.15 * value))), flags)


def _dense_ranks(values: Sequence[float], tie_width: float) -> list[int]:
    """Ranks from the best down; values within the tie width of the best of a group tie with it."""
    ranks, rank_now, head = [0] * len(values), 0, math.inf
    for index in sorted(range(len(values)), key=lambda i: -values[i]):
        if head - values[index] > tie_width:
            rank_now, head = rank_now + 1, values[index]
        ranks[index] = rank_now
    return ranks


def pairwise_agreement(rank_lists: Sequence[Sequence[int]]) -> tuple[int, int]:
    """(same, strict): of the pairs that both of two labelers ordered strictly, those ordered alike.

    ``rank_lists`` are rankings of the same completions by different labelers; every pair of
    labelers counts. Pairs that either ties are left out (Stiennon et al. 2020, App. C.2).
    """
    same = strict = 0
    for left, right in itertools.combinations(rank_lists, 2):
        for i, j in itertools.combinations(range(len(left)), 2):
            product = (left[i] - left[j]) * (right[i] - right[j])
            strict += product != 0
            same += product > 0
    return same, strict


def expected_agreement(
    labelers: Sequence[SimulatedLabeler], values: np.ndarray, pairs: np.ndarray, scale: float
) -> float:
    """The expected strict agreement of the labelers at this noise scale, without sampling.

    ``values`` (labelers, completions) are noise-free utilities, ``pairs`` (pairs, 2) indices.
    Labeler l prefers a to b with probability Phi((v_a - v_b - tie_l) / (sqrt(2) scale noise_l)).
    """
    gap = values[:, pairs[:, 0]] - values[:, pairs[:, 1]]
    tie = np.array([[labeler.tie_width] for labeler in labelers])
    spread = np.array([[2.0 * scale * labeler.noise] for labeler in labelers])
    first = 0.5 * (1 + _erf((gap - tie) / spread))
    second = 0.5 * (1 + _erf((-gap - tie) / spread))
    same = strict = 0.0
    for i, j in itertools.combinations(range(len(labelers)), 2):
        same += float((first[i] * first[j] + second[i] * second[j]).sum())
        strict += float(((first[i] + second[i]) * (first[j] + second[j])).sum())
    return same / strict


_erf = np.vectorize(math.erf, otypes=[float])


def fit_noise(
    world: World,
    labelers: Sequence[SimulatedLabeler],
    pilot: Pilot,
    target: float = TARGET_AGREEMENT,
) -> tuple[float, float]:
    """(noise scale, expected agreement): the scale at which training labelers agree at the target.

    Found by bisection, since agreement falls with noise. Where even steady labelers agree less
    than the target, the smallest scale is returned with the agreement it gives.
    """
    rows, pairs, start = [], [], 0
    for task, texts in pilot:
        distinct = list(dict.fromkeys(texts))
        rows += [assess(world, task, text) for text in distinct]
        pairs += itertools.combinations(range(start, start + len(distinct)), 2)
        start += len(distinct)
    if not pairs or len(labelers) < 2:
        raise ConfigError(
            f"the noise of labelers is fitted on pairs of completions: {len(pairs)} pairs and "
            f"{len(labelers)} labelers were given, at least 1 and 2 are needed"
        )
    chosen = np.array(pairs[:: max(1, len(pairs) // _MAX_PILOT_PAIRS)])
    values = np.array([[labeler.value(row) for row in rows] for labeler in labelers])
    low, high = _NOISE_RANGE
    for _ in range(25):
        middle = math.sqrt(low * high)
        if expected_agreement(labelers, values, chosen, middle) > target:
            low = middle
        else:
            high = middle
    return low, expected_agreement(labelers, values, chosen, low)


@dataclass(frozen=True, slots=True)
class LabelerPool:
    """The training and the held-out labelers, what screening measured, and the fitted noise."""

    train: tuple[SimulatedLabeler, ...]
    heldout: tuple[SimulatedLabeler, ...]
    screening: tuple[dict[str, Any], ...]  # a row per candidate, the hired ones first
    noise_scale: float
    agreement: float  # expected between training labelers on the pilot

    def cohort(self, cohort: Cohort) -> tuple[SimulatedLabeler, ...]:
        """The labelers of a cohort."""
        return self.train if cohort == "train" else self.heldout

    @classmethod
    def build(
        cls,
        world: World,
        seed: int,
        *,
        num_candidates: int = 24,
        num_train: int = 8,
        num_heldout: int = 5,
        pilot: Pilot | None = None,
    ) -> LabelerPool:
        """Candidates are screened and the best hired; held-out labelers are drawn unscreened."""
        if num_candidates < num_train or num_train < 2:
            raise ConfigError(
                f"{num_train} training labelers cannot be hired from {num_candidates} candidates: "
                "give at least 2 training labelers and as many candidates"
            )
        rng = random.Random(f"{seed}-labelers")
        candidates = [_draw(f"labeler-{i:02d}", "train", rng) for i in range(num_candidates)]
        screened = [(screen(world, c, rng), c) for c in candidates]
        screened.sort(key=lambda pair: standing(pair[0]), reverse=True)
        train = tuple(c for _, c in screened[:num_train])
        heldout = tuple(_draw(f"heldout-{i:02d}", "heldout", rng) for i in range(num_heldout))
        rows = tuple({"labeler": c.id, "hired": c in train} | result for result, c in screened)
        scale, agreement = fit_noise(world, train, pilot or practice_pilot(world, rng))
        return cls(train, heldout, rows, scale, agreement)

    def refitted(self, world: World, pilot: Pilot) -> LabelerPool:
        """The same labelers with their noise fitted on another pilot."""
        scale, agreement = fit_noise(world, self.train, pilot)
        return replace(self, noise_scale=scale, agreement=agreement)

    def save(self, path: Path) -> None:
        """Writes the pool as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> LabelerPool:
        """The pool that ``save`` wrote."""
        if not path.is_file():
            raise DataError(f"{path} does not exist: labelers are hired when a world is written")
        row = json.loads(path.read_text(encoding="utf-8"))
        groups = {}
        for name in ("train", "heldout"):
            groups[name] = tuple(
                SimulatedLabeler(**(item | {"errors": ErrorRates(**item["errors"])}))
                for item in row[name]
            )
        return cls(**(row | groups | {"screening": tuple(row["screening"])}))


def draw_candidates(seed: int, num: int) -> list[SimulatedLabeler]:
    """Those whom ``LabelerPool.build`` screens with this seed, hired or not."""
    rng = random.Random(f"{seed}-labelers")
    return [_draw(f"labeler-{i:02d}", "train", rng) for i in range(num)]


def _draw(labeler_id: str, cohort: Cohort, rng: random.Random) -> SimulatedLabeler:
    """A random person: some are careful, some are not."""
    care = rng.uniform(0.6, 2.0)  # multiplies their mistakes
    rates = asdict(ErrorRates())
    return SimulatedLabeler(
        id=labeler_id,
        cohort=cohort,
        weights={part: math.exp(rng.gauss(0.0, 0.25)) for part in PARTS},
        noise=math.exp(rng.gauss(0.0, 0.25)) * (0.7 + 0.3 * care),
        tie_width=rng.uniform(0.1, 0.5),
        flag_error=min(0.6, 0.22 * care),
        errors=ErrorRates(**{name: min(0.9, rate * care) for name, rate in rates.items()}),
    )


def screen(world: World, labeler: SimulatedLabeler, rng: random.Random) -> dict[str, float]:
    """The three measures of the paper's screening, against a researcher who sees the utility.

    ``flags``: agreement on whether a completion is inappropriate (half of them are);
    ``rankings``: strict agreement on rankings; ``demonstrations``: mean of 1 to 7.
    """
    agreed = []
    for number in range(40):
        task = make_task(world, rng, world.train_names, "fact")
        text = compose(world, task, rng, Slips(sloppy=number % 2 == 0))
        _, (rating,) = rank(world, labeler, task, [text], [True], rng)
        agreed.append(rating.flags["inappropriate"] == (assess(world, task, text).insults > 0))
    same = strict = 0
    for task, texts in practice_pilot(world, rng, num=30):
        ends = [True] * len(texts)
        ranks, _ = rank(world, labeler, task, texts, ends, rng, noise_scale=_SCREENING_NOISE)
        more = pairwise_agreement([ranks, screening_truth(world, task, texts)])
        same, strict = same + more[0], strict + more[1]
    scores = []
    for _ in range(20):
        task = make_task(world, rng, world.train_names)
        slips = [rng.random() < rate for rate in asdict(labeler.errors).values()]
        quality = assess(world, task, compose(world, task, rng, Slips(*slips))).utility
        scores.append(min(7.0, max(1.0, 4 + 1.15 * quality)))
    return {
        "flags": sum(agreed) / len(agreed),
        "rankings": same / max(1, strict),
        "demonstrations": sum(scores) / len(scores),
    }


def screening_truth(world: World, task: Task, texts: Sequence[str]) -> list[int]:
    """The ranks that a researcher gives, who sees the hidden utility."""
    return _dense_ranks([assess(world, task, text).utility for text in texts], 0.0)


def standing(result: Mapping[str, float]) -> tuple[int, float]:
    """How a candidate compares: cut-offs passed first (they are soft), then the sum of measures."""
    passed = sum(result[name] >= cutoff for name, cutoff in CUTOFFS.items())
    return passed, sum(result[name] / cutoff for name, cutoff in CUTOFFS.items())


def practice_pilot(
    world: World, rng: random.Random, num: int = 200
) -> list[tuple[Task, list[str]]]:
    """Tasks with four distinct responses of mixed quality, for use before a model has answered."""
    found = []
    while len(found) < num:
        task = make_task(world, rng, world.train_names)
        texts = {ideal_response(world, task, rng): None}
        for _ in range(4):
            slips = Slips(*(rng.random() < 0.4 for _ in range(4)))
            texts[compose(world, task, rng, slips)] = None
        other = make_task(world, rng, world.train_names)
        texts[ideal_response(world, other, rng)] = None
        if len(texts) >= 4:
            found.append((task, rng.sample(list(texts), 4)))
    return found
