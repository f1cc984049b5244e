"""Step 3 on a tiny model: it raises a reward it can see, and its parts are what they should be."""

from __future__ import annotations

import json
import math
import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from heedful.config import PPOConfig
from heedful.data.examples import PromptTokens
from heedful.data.text import TextRows
from heedful.errors import CheckpointError, ConfigError, DataError, TrainingError
from heedful.metrics import read_metrics
from heedful.models import output_head
from heedful.models.language_model import cast_weights
from heedful.models.scalar_model import load_scalar_model, scalar_model_from
from heedful.rollout.engine import sample
from heedful.training import loop, step3_ppo
from heedful.training.checkpoint import publish
from heedful.training.loop import NON_FINITE_FILE, Adam, derive_seed
from heedful.training.monitoring import Watch
from heedful.training.sampler_trust import ratio_is_one
from heedful.training.step3_ppo import Models, num_iterations, train

VOCABULARY, EOS, PAD, GOOD = 20, 0, 1, 7
PROMPTS = [
    PromptTokens(str(i), f"prompt {i}", [2 + i % 5, 8 + i % 7][: 1 + i % 2]) for i in range(40)
]
PHASES = ("rollout", "experience", "optimize", "observe")  # those of every iteration
TEXT = TextRows((torch.arange(500) % 11 + 4).numpy().astype("uint32"), 8)


def settings(run_dir, **changes):
    ppo = {"episodes": 32 * 4, "batch_size": 32, "minibatch_size": 16, "lr": 3e-3}
    ppo |= {"value_lr": 1e-2, "warmup_iterations": 0} | changes.pop("ppo", {})
    values = {
        "run_dir": str(run_dir),
        "policy": "unused",
        "reward_model": "unused",
        "data": {},
        "ppo": ppo,
        "sampling": {"max_new_tokens": 6},
        "compute": {"dtype": "float32"},
        "log": {"save_every": 2},
    }
    return PPOConfig.model_validate(values | changes)


@pytest.fixture
def networks(tiny_model, tokenizer, tmp_path):
    """Makes the four networks of an architecture; value function and reward model are equal."""

    def make(architecture="llama", seed=0, **changes):
        shape = {"vocab_size": VOCABULARY, **changes}
        directory = tmp_path / "networks" / architecture
        if not directory.exists():
            publish(tiny_model(architecture, **shape), tokenizer, directory, {})
            reward = scalar_model_from(directory, seed=1)
            publish(reward, tokenizer, directory / "reward", {})
        return Models(
            tiny_model(architecture, seed, **shape),
            tiny_model(architecture, seed, **shape),
            load_scalar_model(directory / "reward"),
            load_scalar_model(directory / "reward"),
        )

    return make


@pytest.fixture
def toy_reward(monkeypatch):
    """The score is how often the response says GOOD (prompts never do)."""

    def scores(model, batch):
        says = (batch.tokens == GOOD).float()
        return torch.zeros(len(batch.last)).index_add(0, batch.layout.row_of, says)

    monkeypatch.setattr(step3_ppo, "final_scores", scores)


def run(config, models, **options):
    return train(config, models, PROMPTS, options.pop("text", None), eos=EOS, pad=PAD, **options)


def weights_of(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def same(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_it_raises_the_reward_and_drifts_from_the_reference(
    networks, toy_reward, tmp_path, results_of
):
    models = networks()
    before = weights_of(models.reference)
    config = settings(tmp_path, ppo={"episodes": 32 * 25, "missing_eos_score": "none"})
    run(config, models)
    rows = results_of(tmp_path)
    assert len(rows) == 25
    first, last = rows[0], rows[-1]
    assert last["ppo/score"] > first["ppo/score"] + 2
    assert first["ppo/kl"] == pytest.approx(0.0, abs=1e-5)
    assert last["ppo/kl"] > 0.5
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert same(weights_of(models.reference), before)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3", "gemma3"])
@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_first_ratio_is_one(
    networks, tmp_path, results_of, architecture, recompute, temperature
):
    """Dropout of the model's own is off: with it on, no ratio would be 1."""
    own = {"gpt2": {"resid_pdrop": 0.3, "attn_pdrop": 0.3, "embd_pdrop": 0.3}}
    dropout = own.get(architecture, {"attention_dropout": 0.3})
    config = settings(
        tmp_path,
        ppo={"episodes": 32, "recompute_logprobs": recompute},
        sampling={"max_new_tokens": 6, "temperature": temperature},
    )
    run(config, networks(architecture, **dropout))
    (row,) = results_of(tmp_path)
    assert row["ppo/first_ratio"] == pytest.approx(1.0, abs=1e-6 if recompute else 1e-5)


def test_recomputed_logprobs_give_exactly_one(networks, tmp_path, results_of):
    """In one micro-batch of equal lengths the two passes are the same arithmetic."""
    ppo = {"episodes": 32, "minibatch_size": 32}
    config = settings(tmp_path, ppo=ppo, sampling={"max_new_tokens": 1})
    run(config, networks())
    assert results_of(tmp_path)[0]["ppo/first_ratio"] == 1.0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_exact_samplers_logprobs_are_taken_after_the_first_iteration(
    networks, toy_reward, tmp_path, dtype
):
    def rows_of(name, recompute):
        models = networks()
        for model in (models.policy, models.reference, models.value_function):
            cast_weights(model, getattr(torch, dtype))
        ppo = {"recompute_logprobs": recompute}
        config = settings(tmp_path / name, ppo=ppo, compute={"dtype": dtype})
        run(config, models)
        return read_metrics(tmp_path / name)

    auto, always = rows_of("auto", "auto"), rows_of("always", True)
    assert ["time/logprobs_s" in row for row in auto] == [True, False, False, False]
    assert all("time/logprobs_s" in row for row in always)
    tolerance = 1e-5 if dtype == "float32" else 5e-3  # of some 70 tokens
    for row in auto:
        assert row["ppo/first_spread"] < (1e-5 if dtype == "float32" else 0.02)
        assert row["ppo/first_ratio"] == pytest.approx(1.0, abs=tolerance)
    if dtype == "float32":
        for one, other in zip(auto, always, strict=True):
            assert one["ppo/score"] == pytest.approx(other["ppo/score"], abs=1e-4)


@pytest.mark.parametrize(("mean", "spread"), [(1e-3, 0.0), (0.0, 0.05)])
@pytest.mark.parametrize("from_iteration", [0, 2])
def test_a_sampler_that_is_off_is_not_believed(
    networks, toy_reward, tmp_path, capsys, mean, spread, from_iteration
):
    """Off by a little in the mean, or right in the mean and far off in every token."""
    calls = []

    def generate(*arguments, **settings):
        rollout = sample(*arguments, **settings)
        calls.append(None)
        if len(calls) <= from_iteration:
            return rollout
        signs = torch.ones_like(rollout.logprobs)
        signs[:, 1::2] = -1.0
        return rollout._replace(logprobs=rollout.logprobs + mean + spread * signs)

    run(settings(tmp_path, ppo={"episodes": 32 * 5}), networks(), generate=generate)
    rows = read_metrics(tmp_path)
    recomputed = ["time/logprobs_s" in row for row in rows]
    # seen where it should be 1, and from then on made anew
    assert recomputed == [True] * 5 if from_iteration == 0 else [True, False, False, True, True]
    assert rows[3]["ppo/first_ratio"] == pytest.approx(1.0, abs=1e-5)
    assert "they are recomputed in every iteration" in capsys.readouterr().err


def test_a_sampler_that_was_off_once_is_looked_at_again(networks, toy_reward, tmp_path):
    calls = []

    def generate(*arguments, **settings):
        rollout = sample(*arguments, **settings)
        calls.append(None)
        return rollout._replace(logprobs=rollout.logprobs + 0.01 * (len(calls) == 2))

    run(settings(tmp_path), networks(), generate=generate)
    recomputed = ["time/logprobs_s" in row for row in read_metrics(tmp_path)]
    assert recomputed == [True, False, True, False]


@pytest.mark.parametrize(
    ("mean", "spread", "num_tokens", "dtype", "expected"),
    [
        (1.0, 0.0, 100, torch.float32, True),
        (1.0 + 2e-5, 0.0, 100, torch.float32, False),
        (1.0 + 2e-5, 1e-5, 10, torch.float32, True),  # 1e-5 and five standard errors of 3.2e-6
        (1.0 + 2e-5, 1e-5, 100, torch.float32, False),
        (1.0, 2e-3, 10_000, torch.float32, False),
        (1.0 + 4e-4, 0.001, 10**6, torch.bfloat16, True),
        (1.0 - 6e-4, 0.001, 10**6, torch.bfloat16, False),
        (1.0, 0.021, 10_000, torch.bfloat16, False),
        (math.nan, math.nan, 100, torch.bfloat16, False),
    ],
)
def test_two_passes_agree_by_mean_and_spread(mean, spread, num_tokens, dtype, expected):
    assert ratio_is_one(mean, spread, num_tokens, dtype) is expected


def test_what_is_known_of_the_sampler_is_kept_over_a_stop(
    networks, toy_reward, tmp_path, interrupt_at
):
    with pytest.raises(KeyboardInterrupt):
        run(settings(tmp_path), networks(), progress=interrupt_at(2))
    run(settings(tmp_path), networks())
    recomputed = ["time/logprobs_s" in row for row in read_metrics(tmp_path)]
    assert recomputed == [True, False, False, False]


@pytest.mark.parametrize("ptx", [0.0, 2.0])
def test_a_resumed_run_is_the_uninterrupted_one(
    networks, toy_reward, tmp_path, results_of, interrupt_at, ptx
):
    def once(name, seed=0, stop=0):
        models = networks(seed=0)
        if seed:  # what a resumed run starts from no longer matters, but for the reference
            for model in (models.policy, models.value_function):
                for parameter in model.parameters():
                    parameter.data.add_(0.1)
        ppo = {"ptx_coef": ptx, "kl_target": 1.0, "kl_horizon": 100}
        config = settings(tmp_path / name, ppo=ppo)
        run(config, models, text=TEXT, progress=interrupt_at(stop))
        return models

    whole = once("whole")
    with pytest.raises(KeyboardInterrupt):
        once("cut", stop=3)
    resumed = once("cut", seed=3)
    assert results_of(tmp_path / "cut") == results_of(tmp_path / "whole")
    assert same(weights_of(resumed.policy), weights_of(whole.policy))
    assert same(weights_of(resumed.value_function), weights_of(whole.value_function))


def test_other_settings_or_data_do_not_resume(networks, tmp_path, interrupt_at):
    with pytest.raises(KeyboardInterrupt):
        run(settings(tmp_path), networks(), progress=interrupt_at(3))
    with pytest.raises(CheckpointError, match="other settings or data"):
        run(settings(tmp_path, ppo={"kl_coef": 0.1}), networks())
    with pytest.raises(CheckpointError, match="other settings or data"):
        train(settings(tmp_path), networks(), PROMPTS[1:], None, eos=EOS, pad=PAD)


@pytest.fixture
def gradients(monkeypatch):
    """The policy's gradient before each of its updates, unclipped, as one flat vector."""
    found: list[torch.Tensor] = []
    step = Adam.step

    def spy(self, lr, batch, run_dir, where):
        if where.endswith("policy"):
            found.append(self.master.grad.clone())
        return step(self, lr, batch, run_dir, where)

    monkeypatch.setattr(Adam, "step", spy)
    return found


def test_ptx_adds_the_gradient_of_the_text_before_the_one_update(
    networks, tiny_model, toy_reward, tmp_path, gradients
):
    """The text's gradient by the library's own loss on the same rows; 4 rows per episode."""
    shared = {"episodes": 32, "minibatch_size": 32, "ptx_rows_per_episode": 4}
    for coef in (0.0, 2.5):
        config = settings(tmp_path / str(coef), ppo=shared | {"ptx_coef": coef})
        run(config, networks(), text=TEXT)
    plain, mixed = gradients  # one update each

    theirs = tiny_model("llama", attention="eager", vocab_size=VOCABULARY)
    rows = TEXT.draw(4 * 32, derive_seed(0, "ptx", 0, 0))
    theirs(input_ids=rows, labels=rows).loss.backward()
    text = torch.cat([parameter.grad.flatten() for parameter in theirs.parameters()])
    assert float(plain.norm()) > 0
    assert_close(mixed, plain + 2.5 * text, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("rows", [10**6, 5])  # of logits at a time
def test_the_policy_gradient_is_that_of_the_plain_formula(
    networks, tiny_model, toy_reward, tmp_path, gradients, monkeypatch, rows
):
    """Before the first update every ratio is 1: the gradient is -mean(advantage * d logprob)."""
    monkeypatch.setattr(output_head, "LOGIT_CELLS", rows * VOCABULARY)
    seen = []
    config = settings(tmp_path, ppo={"episodes": 32, "minibatch_size": 32})
    run(config, networks(), observers=[lambda batch, e: seen.append(e) or {}])
    (experience,) = seen
    theirs = tiny_model("llama", attention="eager", vocab_size=VOCABULARY)
    total = torch.zeros(())
    for i, (prompt, response) in enumerate(
        zip(experience.prompts, experience.responses, strict=True)
    ):
        z = theirs(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        logprobs = torch.log_softmax(z, -1).gather(1, torch.tensor(response)[:, None])[:, 0]
        total = total - (experience.advantages[i, : len(response)] * logprobs).sum()
    (total / experience.response_mask.sum()).backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in theirs.parameters()])
    assert_close(gradients[0], expected, rtol=1e-4, atol=1e-5)


def test_micro_batches_change_nothing(networks, toy_reward, tmp_path, gradients):
    for tokens in (8192, 8):
        compute = {"dtype": "float32", "tokens_per_microbatch": tokens}
        ppo = {"episodes": 32, "minibatch_size": 32, "ptx_coef": 1.0}
        run(settings(tmp_path / str(tokens), ppo=ppo, compute=compute), networks(), text=TEXT)
    assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)


def test_the_published_policy_is_the_moving_average(networks, toy_reward, tmp_path):
    """By the recursion: decay min(0.5, (1 + i) / (10 + i)) after iteration i."""
    models = networks()
    seen = []

    def follow(policy):
        seen.append([weights.double() for weights in weights_of(policy)])
        return {"eval/seen": float(len(seen))}

    config = settings(
        tmp_path, eval_every=1, ppo={"episodes": 32 * 12, "batch_size": 32, "ema_decay": 0.5}
    )
    last = run(config, models, evaluators=[follow])
    assert last["eval/seen"] == 12.0
    # the newest weights count 1, the ones before 0.5, 0.25, ...; the shares add up to 1
    shares = [0.5 ** (11 - i) for i in range(12)]
    for k, mine in enumerate(models.policy.parameters()):
        mean = sum(share * weights[k] for share, weights in zip(shares, seen, strict=True))
        assert_close(mine.detach().double(), mean / sum(shares), rtol=1e-5, atol=1e-6)


def test_a_response_without_eos_gets_its_fixed_score(networks, tmp_path):
    found = {}
    for score in (-3.0, "none"):
        seen = []
        config = settings(tmp_path / str(score), ppo={"episodes": 32, "missing_eos_score": score})
        run(config, networks(), observers=[lambda batch, e, seen=seen: seen.append(e) or {}])
        found[score] = seen[0]
    fixed, kept = found[-3.0], found["none"]
    assert 0 < int(fixed.finished.sum()) < 32
    assert torch.equal(fixed.finished, kept.finished)
    assert fixed.scores[~fixed.finished].eq(-3.0).all()
    assert torch.equal(fixed.scores[fixed.finished], kept.scores[kept.finished])
    assert not bool(kept.scores.eq(-3.0).any())


def test_the_adaptive_kl_coefficient_follows_the_kl(networks, toy_reward, tmp_path, results_of):
    """kl_coef * (1 + clamp(kl / 0.5 - 1, -0.2, 0.2) * 32 / 100) after every iteration."""
    ppo = {"episodes": 32 * 12, "kl_coef": 0.1, "kl_target": 0.5, "kl_horizon": 100}
    run(settings(tmp_path, ppo=ppo), networks())
    coef, errors = 0.1, []
    for row in results_of(tmp_path):
        errors.append(min(max(row["ppo/kl"] / 0.5 - 1, -0.2), 0.2))
        coef *= 1 + errors[-1] * 32 / 100
        assert row["ppo/kl_coef"] == pytest.approx(coef)
    assert min(errors) < 0 < max(errors)


def test_rewards_are_the_score_less_the_kl(networks, tmp_path, results_of):
    config = settings(tmp_path, ppo={"kl_coef": 0.3, "lr": 1e-2})
    run(config, networks())
    for row in results_of(tmp_path):
        expected = row["ppo/score"] - 0.3 * row["ppo/kl"]
        assert row["ppo/reward"] == pytest.approx(expected, abs=1e-4)


def test_the_value_function_learns_and_the_reward_model_does_not(
    networks, toy_reward, tmp_path, results_of
):
    models = networks()
    reward, value = weights_of(models.reward_model), weights_of(models.value_function)
    assert same(reward, value)
    run(settings(tmp_path, ppo={"episodes": 32 * 15, "lr": 1e-6}), models)
    assert same(weights_of(models.reward_model), reward)
    assert not same(weights_of(models.value_function), value)
    losses = [row["ppo/value_loss"] for row in results_of(tmp_path)]
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])


def test_a_score_that_is_not_finite_stops_before_any_change(networks, tmp_path, monkeypatch):
    monkeypatch.setattr(
        step3_ppo, "final_scores", lambda model, batch: torch.full((len(batch.last),), math.nan)
    )
    models = networks()
    before = weights_of(models.policy)
    config = settings(tmp_path, ppo={"missing_eos_score": "none"})
    with pytest.raises(TrainingError, match="iteration 1, update 1, policy: the loss is nan"):
        run(config, models)
    assert same(weights_of(models.policy), before)
    saved = torch.load(tmp_path / NON_FINITE_FILE)
    assert len(saved["prompts"]) == len(saved["responses"]) == saved["scores"].numel() == 16
    assert saved["scores"].isnan().all()


def test_a_value_gradient_that_is_not_finite_leaves_the_policy_alone(
    networks, tmp_path, monkeypatch
):
    models = networks()
    grad_norm = Adam.grad_norm

    def poison(self, *arguments):
        if any(name.startswith("score") for name in self.names):
            self.master.grad[0] = math.inf
        return grad_norm(self, *arguments)

    monkeypatch.setattr(Adam, "grad_norm", poison)
    before = weights_of(models.policy)
    message = r"value function: the gradient of model\.embed_tokens\.weight is not finite"
    with pytest.raises(TrainingError, match=message):
        run(settings(tmp_path), models)
    assert same(weights_of(models.policy), before)
    assert len(torch.load(tmp_path / NON_FINITE_FILE)["prompts"]) == 16


def test_a_policy_that_is_not_its_reference_is_noticed(networks, tmp_path):
    models = networks()
    models.reference = networks(seed=9).policy
    with pytest.raises(TrainingError, match=r"policy and reference differ by \S+ nats per token"):
        run(settings(tmp_path), models)


@pytest.mark.parametrize(
    ("prompts", "changes", "error", "message"),
    [
        ([], {}, DataError, "no prompt of the train split"),
        (PROMPTS, {"ppo": {"ptx_coef": 1.0}}, DataError, "data.text is empty"),
        (PROMPTS, {"sampling": {"temperature": 0.0}}, ConfigError, "temperature is 0"),
    ],
)
def test_what_cannot_be_trained_is_refused(networks, tmp_path, prompts, changes, error, message):
    with pytest.raises(error, match=message):
        train(settings(tmp_path, **changes), networks(), prompts, None, eos=EOS, pad=PAD)


def test_samples_are_written_with_score_and_kl(networks, toy_reward, tmp_path):
    run(settings(tmp_path, log_samples_every=2), networks(), decode=lambda tokens: str(len(tokens)))
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [0, 0, 0, 2, 2, 2]
    assert rows[0]["prompt"].startswith("prompt ")
    assert 1 <= int(rows[0]["response"]) <= 6
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-3)


def test_samples_of_a_resumed_run_stand_there_once(networks, toy_reward, tmp_path, interrupt_at):
    """Cut after iteration 3 with the state of 2: the samples of iteration 2 are written anew."""
    for name, stops in (("whole", [0]), ("cut", [3, 0])):
        config = settings(tmp_path / name, log_samples_every=1)
        for stop in stops:
            with pytest.raises(KeyboardInterrupt) if stop else nullcontext():
                run(config, networks(), progress=interrupt_at(stop))
    cut, whole = ((tmp_path / name / "samples.jsonl").read_text() for name in ("cut", "whole"))
    assert cut == whole
    assert len(whole.splitlines()) == 4 * 3


def test_tokens_of_all_epochs_and_of_the_text_are_counted(networks, toy_reward, tmp_path):
    """32 episodes twice, and 3 rows of 8 tokens for every episode of every update."""
    seen = []
    ppo = {"episodes": 32, "epochs": 2, "ptx_coef": 1.0, "ptx_rows_per_episode": 3}
    config = settings(tmp_path, ppo=ppo)
    run(config, networks(), text=TEXT, observers=[lambda batch, e: seen.append(e) or {}])
    (row,) = read_metrics(tmp_path)
    seconds = sum(row[f"time/{phase}_s"] for phase in PHASES)
    # what is listed by itself is within them
    assert row["time/reference_s"] + row["time/values_s"] < row["time/experience_s"]
    assert 0 < row["time/ptx_s"] < row["time/optimize_s"]
    episodes = sum(map(len, [*seen[0].prompts, *seen[0].responses]))
    expected = 2 * episodes + 2 * 32 * 3 * 8
    assert row["speed/tokens_per_s"] * seconds == pytest.approx(expected)


def test_every_second_of_an_iteration_has_its_phase(networks, toy_reward, tmp_path, monkeypatch):
    """A clock that stands still but for what is counted here: seconds are exact."""
    now = [0.0]

    def lasting(seconds, result):
        def call(*arguments, **options):
            now[0] += seconds
            return result(*arguments, **options) if callable(result) else result

        return call

    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(step3_ppo.PPOState, "average", lasting(4.0, None))
    monkeypatch.setattr(step3_ppo, "describe", lasting(16.0, step3_ppo.describe))
    config = settings(tmp_path, ppo={"episodes": 64}, eval_every=2)
    options = {
        "generate": lasting(1.0, step3_ppo.sample),
        "observers": [lasting(32.0, {"ppo/gold": 0.5})] * 2,
        "evaluators": [lasting(128.0, {"valid/score": 0.5})],
    }
    run(config, networks(), **options)
    first, second = read_metrics(tmp_path)
    assert [first[f"time/{phase}_s"] for phase in PHASES] == [1, 0, 4, 16 + 2 * 32]
    assert "time/evaluate_s" not in first
    assert [second[f"time/{phase}_s"] for phase in (*PHASES, "evaluate")] == [1, 0, 4, 80, 128]
    assert second["speed/episodes_per_s"] == pytest.approx(32 / (1 + 4 + 80 + 128))


def test_iterations_are_rounded_up():
    assert num_iterations(settings("r", ppo={"episodes": 65, "batch_size": 32}).ppo) == 3


def test_warnings_come_once_each(capsys):
    watch = Watch()
    for iteration in range(12):
        watch.look({"ppo/kl": -0.2, "ppo/score_length_correlation": 0.9}, iteration)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "response length" in lines[0]
    assert "negative for 5 iterations" in lines[1]


def draw_all(policy):
    """An evaluator that takes from every random state there is, and leaves the policy training."""
    policy.train()
    return {"eval/drawn": random.random() + np.random.rand() + float(torch.rand(()))}


def observe(batch, experience):
    """What the next of each random state would be; nothing is taken."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    found = {"eval/a": random.random(), "eval/b": np.random.rand(), "eval/c": float(torch.rand(()))}
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    return found


def test_an_evaluator_leaves_random_states_and_weights_alone(
    networks, toy_reward, tmp_path, results_of
):
    found = []
    for every, models in ((0, networks()), (1, networks())):
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        config = settings(tmp_path / str(every), eval_every=every)
        run(config, models, evaluators=[draw_all], observers=[observe])
        rows = results_of(tmp_path / str(every))
        found.append(([{k: r[k] for k in r if k != "eval/drawn"} for r in rows], models))
    assert found[0][0] == found[1][0]
    assert same(weights_of(found[0][1].policy), weights_of(found[1][1].policy))


@pytest.mark.parametrize("stop", [1, 3])
def test_a_killed_run_repeats_and_loses_no_evaluation(
    networks, toy_reward, tmp_path, results_of, interrupt_at, stop
):
    """States are saved every second iteration. Of a run that is killed after the third, the third
    is done again but not looked at again; after the first there is nothing to go on from."""

    def once(name, looks, stop=0):
        def look(policy):
            looks.append(float(next(policy.parameters()).sum()))
            return {"eval/look": looks[-1]}

        config = settings(tmp_path / name, eval_every=1)
        run(config, networks(), evaluators=[look], progress=interrupt_at(stop))
        return looks

    whole = once("whole", [])
    assert len(whole) == len(set(whole)) == 4
    looks: list[float] = []
    with pytest.raises(KeyboardInterrupt):
        once("cut", looks, stop)
    once("cut", looks)
    assert looks == (whole if stop == 3 else [whole[0], *whole])
    assert results_of(tmp_path / "cut") == results_of(tmp_path / "whole")
    rows = read_metrics(tmp_path / "cut")
    assert [row["eval/look"] for row in rows] == whole
    assert all(row["time/evaluate_s"] > 0 for row in rows)
