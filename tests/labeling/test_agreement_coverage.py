"""The labeler-clustered interval holds the true agreement: a small run of the benchmark."""

import importlib.util
from pathlib import Path

import numpy as np

from heedful.labeling.agreement import ranking_agreement

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "agreement_coverage.py"


def test_labeler_interval_holds_the_truth_of_simulated_studies():
    spec = importlib.util.spec_from_file_location("agreement_coverage", SCRIPT)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    truth = benchmark.true_rates(np.random.default_rng(0), num_prompts=8_000)
    assert 0.70 < truth["strict"] < 0.78  # about the paper's 72.6 % and 77.3 %
    held = 0
    for study in range(15):
        answers = benchmark.simulate(np.random.default_rng((2, study)), 20, 120)
        rate = ranking_agreement(answers, num_samples=300, seed=study).rates["strict"]
        held += rate.by_labeler.low <= truth["strict"] <= rate.by_labeler.high
    assert held >= 13
