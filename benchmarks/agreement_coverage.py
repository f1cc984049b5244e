"""How often the intervals around a rate of agreement hold the truth, and what they cost.

    python benchmarks/agreement_coverage.py --studies 100

Simulates studies of 40 labelers and 600 prompts, three labelers to a prompt: labelers differ in
care and in taste, so that answers of one labeler resemble each other. The true rate is that of all
labelers and prompts the simulation could draw, measured once on a study so large that its own
error does not matter. Prints, for each rate and interval, how many studies held it.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

import numpy as np

from heedful.labeling.agreement import RATES, Answer, ranking_agreement
from heedful.statistics.pairs import Ranked, observe, tau_b

WAYS = ("by_labeler", "by_prompt", "two_way")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--labelers", type=int, default=40)
    parser.add_argument("--prompts", type=int, default=600)
    parser.add_argument("--samples", type=int, default=2000)
    options = parser.parse_args()
    truth = true_rates(np.random.default_rng(0), num_prompts=40_000)
    print("truth:", ", ".join(f"{name} {value:.4f}" for name, value in truth.items()))
    held, widths, seconds = Counter(), Counter(), []
    for study in range(options.studies):
        rng = np.random.default_rng((1, study))
        answers = simulate(rng, options.labelers, options.prompts)
        start = time.process_time()
        found = ranking_agreement(answers, num_samples=options.samples, seed=study)
        seconds.append(time.process_time() - start)
        for name, rate in found.rates.items():
            for way in WAYS:
                interval = getattr(rate, way)
                held[name, way] += interval.low <= truth[name] <= interval.high
                widths[name, way] += (interval.high - interval.low) / 2 / options.studies
    print(
        f"{found.num_observations} observations, {options.samples} replicates, three intervals of "
        f"{len(RATES)} rates: CPU median {np.median(seconds):.3f} s, worst {max(seconds):.3f} s"
    )
    print(f"\n| rate | {' | '.join(WAYS)} |\n|---|---|---|---|")
    for name in RATES:
        cells = [f"{held[name, way]} (± {100 * widths[name, way]:.2f})" for way in WAYS]
        print(f"| {name} | {' | '.join(cells)} |")


def simulate(rng: np.random.Generator, num_labelers: int, num_prompts: int) -> list[Answer]:
    """The answers of a study in which three labelers, drawn at random, rank each prompt."""
    chosen = rng.permuted(np.tile(np.arange(num_labelers), (num_prompts, 1)), axis=1)[:, :3]
    care, taste = rng.normal(size=num_labelers), rng.normal(size=num_labelers)
    ranks = draw_ranks(rng, care[chosen], taste[chosen])
    return [
        Answer(
            f"p{prompt}",
            f"l{labeler}",
            outputs=("a", "b", "c", "d", "e"),
            ranks=tuple(own.tolist()),
            lengths=(1,) * 5,
            ratings=(None,) * 5,
            active_s=None,
            submitted_s=0.0,
        )
        for prompt, (labelers, table) in enumerate(zip(chosen, ranks, strict=True))
        for labeler, own in zip(labelers, table, strict=True)
    ]


def draw_ranks(rng: np.random.Generator, care: np.ndarray, taste: np.ndarray) -> np.ndarray:
    """Ranks (prompts, labelers, 5) of outputs by what all value, what some do, and noise."""
    num_prompts = len(care)
    quality = rng.normal(size=(num_prompts, 1, 5))
    style = rng.normal(size=(num_prompts, 1, 5)) * 0.5 * taste[..., None]
    noise = rng.normal(size=(*care.shape, 5)) * np.exp(-0.35 + 0.3 * care)[..., None]
    seen = np.round((quality + style + noise) / 0.5)  # coarse, so that some outputs tie
    return 1 + (seen[..., None, :] > seen[..., :, None]).sum(axis=-1)


def true_rates(rng: np.random.Generator, num_prompts: int) -> dict[str, float]:
    """The rates among all labelers, from prompts with two labelers drawn for them alone."""
    ranks = draw_ranks(rng, *rng.normal(size=(2, num_prompts, 2)))
    found = observe(
        [
            Ranked(str(prompt), str(who), dict(enumerate(own.tolist())))
            for prompt, table in enumerate(ranks)
            for who, own in enumerate(table)
        ]
    )
    means = np.append(found.counts.mean(axis=0), np.nanmean(tau_b(found.counts)))[None]
    return {name: float(rate.statistic(means)[0]) for name, rate in RATES.items()}


if __name__ == "__main__":
    main()
