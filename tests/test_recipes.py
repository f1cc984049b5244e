"""Every recipe loads and its settings are valid; those of the paper have the paper's constants."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from heedful.cli import THROUGH_SERVICE, main
from heedful.commands.recipe_tables import read_recipe
from heedful.commands.run import Recipe, load_recipe

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))
PAPER = {path.stem.removeprefix("instructgpt-"): path for path in RECIPES if "gpt" in path.stem}

# Appendix C: learning rate of the PPO init model and of the SFT baseline, batch, value function's.
BY_SIZE = {
    "1.3b": (5e-6, 9.65e-6, 32, 9e-6),
    "6b": (1.04e-5, 9.65e-6, 32, 9e-6),
    "175b": (2.45e-6, 5.03e-6, 8, 5e-6),
}


def given(path: Path) -> dict[str, str]:
    """A value for every variable that a recipe needs and does not set itself."""
    values = read_recipe(path)
    named = set(re.findall(r"\{(\w+)\}", json.dumps(values)))
    needed = named - {"run", *values["stage"], *values["variables"]}
    return {name: f"some/{name}" for name in needed}


def load(size: str) -> Recipe:
    return load_recipe(PAPER[size], variables=given(PAPER[size]))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_loads_and_every_stage_is_reached(path: Path):
    stages = set(load_recipe(path, variables=given(path)).stages)
    if "through" in read_recipe(path)["variables"]:  # heed demo --service
        stages |= set(load_recipe(path, variables=given(path) | THROUGH_SERVICE).stages)
    assert stages == set(read_recipe(path)["stage"])


def test_every_recipe_is_known_by_name(capsys):
    assert main(["run", "miniature", "--dry-run"]) == 0
    assert "[stage.ppo_ptx] heed ppo" in capsys.readouterr().out


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_dry_run_plans_without_files_and_names_those_from_outside(path: Path, capsys):
    arguments = [f"--{name}={value}" for name, value in given(path).items()]
    code = main(["run", str(path), "--dry-run", *arguments])
    out, said = capsys.readouterr()
    assert "unknown until the data is read" in out
    assert code == (1 if arguments else 0)
    about = read_recipe(path).get("about_inputs")
    lines = said.splitlines()[1:]
    if about is not None:
        assert lines.pop() == f"  {about}"
    place = re.compile(r"  \[stage\.\w+(, stage\.\w+)*\] [\w.]+(, [\w.]+)*: (\S+) does not")
    found = [place.match(line) for line in lines]
    files = [match[3] for match in found if match is not None]
    assert len(files) == len(set(files)) == len(lines)


def test_the_paper_has_three_sizes_and_the_large_one_asks_for_a_reward_model():
    assert set(PAPER) == set(BY_SIZE)
    assert [size for size in PAPER if "reward_base" in given(PAPER[size])] == ["175b"]


@pytest.mark.parametrize("size", sorted(BY_SIZE))
def test_supervised_stages_have_the_numbers_of_c1_and_c3(size: str):
    init_lr, sft_lr, batch_size, _ = BY_SIZE[size]
    stages = load(size).stages
    init, baseline = stages["ppo_init"].config, stages["sft"].config
    assert (init.epochs, init.pretraining_mix, init.optim.lr) == (2, 0.1, init_lr)
    assert (baseline.epochs, baseline.pretraining_mix, baseline.optim.lr) == (16, 0, sft_lr)
    assert baseline.select == "score"
    assert baseline.reward_model.endswith("stages/reward/model")
    for config in (init, baseline):
        assert config.optim.batch_size == batch_size
        assert config.dropout == 0.2
        assert not config.loss_on_prompt


@pytest.mark.parametrize("size", sorted(BY_SIZE))
def test_the_reward_model_has_the_numbers_of_c2(size: str):
    reward = load(size).stages["reward"].config
    assert (reward.epochs, reward.optim.lr, reward.optim.batch_size) == (1, 9e-6, 64)
    assert reward.batching == "k_wise"
    assert reward.data.demonstrations  # they score 0 on average


@pytest.mark.parametrize("size", sorted(BY_SIZE))
def test_ppo_has_the_numbers_of_c4(size: str):
    stages = load(size).stages
    for name, ptx_coef in (("ppo", 0), ("ppo_ptx", 27.8)):
        config = stages[name].config
        ppo = config.ppo
        assert (ppo.episodes, ppo.batch_size, ppo.minibatch_size, ppo.epochs) == (
            256_000,
            512,
            64,
            1,
        )
        assert (ppo.kl_coef, ppo.kl_target, ppo.clip, ppo.ema_decay) == (0.02, 0, 0.2, 0.992)
        assert (ppo.warmup_iterations, ppo.value_lr) == (10, BY_SIZE[size][3])
        assert (ppo.discount, ppo.lam, ppo.ptx_coef, ppo.ptx_rows_per_episode) == (
            1,
            0.95,
            ptx_coef,
            8,
        )
        assert (config.sampling.temperature, config.sampling.max_new_tokens) == (1, 1024)
        assert config.policy.endswith("stages/ppo_init/model")
    assert stages["ppo_ptx"].config.row_tokens == 2048


@pytest.mark.parametrize("size", sorted(BY_SIZE))
def test_ppo_keeps_to_the_learning_rates_that_the_paper_tried(size: str):
    """E.9: 2.55e-6 to 2.55e-5, diverging above 8.05e-6 without text; 175B 2.55e-6 and 3.74e-6."""
    stages = load(size).stages
    plain, ptx = stages["ppo"].config.ppo.lr, stages["ppo_ptx"].config.ppo.lr
    assert 2.55e-6 <= plain <= 8.05e-6
    assert 2.55e-6 <= ptx <= 2.55e-5
    if size == "175b":
        assert {plain, ptx} <= {2.55e-6, 3.74e-6}


@pytest.mark.parametrize("size", sorted(BY_SIZE))
def test_what_every_step_shares(size: str):
    for stage in load(size).stages.values():
        config = stage.config
        assert (config.data.max_prompt_tokens, config.data.max_response_tokens) == (1024, 1024)
        assert config.data.long_prompts == "skip"
        if stage.command != "ppo":
            optim = config.optim
            assert (optim.betas, optim.schedule) == ((0.9, 0.95), "cosine")
            assert (optim.final_lr_share, optim.warmup_steps) == (0.1, 0)


def test_a_dry_run_of_the_paper_shows_its_derived_numbers(capsys):
    path = str(PAPER["1.3b"])
    assert main(["run", path, "--base", "b", "--data", "d", "--dry-run"]) == 1
    ptx = capsys.readouterr().out.partition("[stage.ppo_ptx]")[2]
    rows = dict(re.findall(r"(?m)^(\S[^:=]*?) {2,}([\d,]+) ", ptx))
    assert rows["iterations"] == "500"
    assert rows["updates in all"] == "4,000"
    assert rows["warm-up updates"] == "80"
    assert rows["pretraining rows per minibatch"] == "512"
    assert rows["pretraining rows in all"] == "2,048,000"
