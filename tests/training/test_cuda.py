"""The steps on a CUDA device, pretended: what the processor computes, and few waits for it."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch.testing import assert_close

from heedful.config import PPOConfig, RewardConfig, SFTConfig
from heedful.data.examples import Example, PromptTokens, RankedPrompt
from heedful.data.text import TextRows
from heedful.models.language_model import place
from heedful.models.scalar_model import load_scalar_model, scalar_model_from
from heedful.training import step1_sft, step2_reward, step3_ppo
from heedful.training.checkpoint import publish, save_state
from heedful.training.loop import Sums, Timer

EOS, PAD = 0, 1
CUDA = torch.device("cuda")
EXAMPLES = [Example([a, b], [b, a, a, EOS][: 2 + a % 3]) for a in range(2, 8) for b in range(9, 15)]
TEXT = TextRows((torch.arange(500) % 20 + 40).numpy().astype("uint32"), 8)
PROMPTS = [
    PromptTokens(str(i), f"prompt {i}", [2 + i % 5, 8 + i % 7][: 1 + i % 2]) for i in range(40)
]


def ranking(i: int, ranks: list[int]) -> RankedPrompt:
    responses = [[7, 8, EOS], [9 + i, EOS], [5, 6, 7, EOS]]
    return RankedPrompt(str(i), [2 + i, 30 - i], responses, ranks, None, "train")


RANKINGS = [ranking(i, ranks) for i in range(12) for ranks in ([1, 3, 2], [2, 3, 1])]


def settings(config_class, run_dir, device, **changes):
    values = {
        "run_dir": str(run_dir),
        "data": {},
        "compute": {"dtype": "float32", "device": device, "tokens_per_microbatch": 40},
        "log": {"save_every": 2},
    }
    return config_class.model_validate(values | changes)


def sft(run_dir, model, device, **changes):
    own = {"base": "unused", "epochs": 1, "dropout": 0.0, "pretraining_mix": 0.2}
    own["optim"] = {"lr": 1e-2, "batch_size": 12}
    config = settings(SFTConfig, run_dir, device, **(own | changes))
    return step1_sft.train(config, model, EXAMPLES, EXAMPLES[:5], TEXT)


def ppo(run_dir, models, device, **changes):
    updates = {"episodes": 16 * 3, "batch_size": 16, "minibatch_size": 8, "lr": 3e-3}
    updates |= {"value_lr": 1e-2, "warmup_iterations": 0, "ptx_coef": 0.5}
    own = {"policy": "unused", "reward_model": "unused", "sampling": {"max_new_tokens": 6}}
    config = settings(PPOConfig, run_dir, device, **(own | {"ppo": updates} | changes))
    for model in vars(models).values():
        place(model, getattr(torch, config.compute.dtype), torch.device(device))
    return step3_ppo.train(config, models, PROMPTS, TEXT, eos=EOS, pad=PAD, generate=same_responses)


def same_responses(model, prompts, **settings):
    """Greedy ones: a device draws other numbers than the processor."""
    return step3_ppo.sample(model, prompts, **(settings | {"temperature": 0.0}))


@pytest.fixture
def networks(tiny_model, tokenizer, tmp_path):
    def make():
        directory = tmp_path / "networks"
        if not directory.exists():
            publish(tiny_model(), tokenizer, directory, {})
            publish(scalar_model_from(directory, seed=1), tokenizer, directory / "reward", {})
        scalars = [load_scalar_model(directory / "reward") for _ in range(2)]
        return step3_ppo.Models(tiny_model(), tiny_model(), *scalars)

    return make


def weights_of(model) -> torch.Tensor:
    return torch.cat([p.detach().cpu().float().flatten() for p in model.parameters()])


def require_same(results_of, here, there):
    """All metrics but those of time, and the weights, within what the order of sums changes."""
    rows = results_of(here[0]), results_of(there[0])
    assert len(rows[0]) == len(rows[1]) > 1
    for ours, theirs in zip(*rows, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-3, abs=2e-4)
    assert {p.device.type for p in there[1].parameters()} == {"cuda"}
    # Adam divides by the size of a gradient: where that is rounding alone, so is the step
    difference = (weights_of(here[1]) - weights_of(there[1])).abs()
    assert float(difference.mean()) < 2e-5


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_sft_is_that_of_the_processor(tiny_model, cuda, tmp_path, results_of, architecture):
    runs = []
    for device in ("cpu", "cuda"):
        model = tiny_model(architecture)
        sft(tmp_path / device, model, device)
        runs.append((tmp_path / device, model))
    require_same(results_of, *runs)


def test_the_reward_model_is_that_of_the_processor(
    tiny_model, tokenizer, cuda, tmp_path, results_of
):
    publish(tiny_model(), tokenizer, tmp_path / "base", {})
    runs = []
    for device in ("cpu", "cuda"):
        model = scalar_model_from(tmp_path / "base", 0)
        own = {"base": "unused", "epochs": 1, "optim": {"lr": 1e-2, "batch_size": 4}}
        config = settings(RewardConfig, tmp_path / device, device, **own)
        step2_reward.train(config, model, RANKINGS, RANKINGS[:6], EXAMPLES)
        runs.append((tmp_path / device, model))
    require_same(results_of, *runs)


def test_ppo_is_that_of_the_processor(networks, cuda, tmp_path, results_of):
    runs = []
    for device in ("cpu", "cuda"):
        models = networks()
        ppo(tmp_path / device, models, device)
        runs.append((tmp_path / device, models.policy))
    require_same(results_of, *runs)


def test_bf16_keeps_fp32_masters_and_learns(tiny_model, cuda, tmp_path, results_of):
    model = tiny_model()
    compute = {"dtype": "bfloat16", "device": "cuda"}
    sft(tmp_path, model, "cuda", compute=compute, epochs=6, pretraining_mix=0.0)
    rows = results_of(tmp_path)
    assert rows[-1]["sft/loss"] < rows[0]["sft/loss"] / 3
    assert {p.dtype for p in model.parameters()} == {torch.float32}  # released to be published


def test_ppo_in_bf16_begins_at_a_ratio_of_one(networks, cuda, tmp_path, results_of):
    models = networks()
    compute = {"dtype": "bfloat16", "device": "cuda"}
    ppo(tmp_path, models, "cuda", compute=compute)
    rows = results_of(tmp_path)
    assert rows[0]["ppo/first_ratio"] == pytest.approx(1.0, abs=5e-4)
    assert rows[0]["ppo/kl"] == pytest.approx(0.0, abs=0.05)


def test_a_run_of_a_device_goes_on_on_the_processor(
    tiny_model, cuda, tmp_path, results_of, interrupt_at
):
    """And the other way: what is saved knows no device."""
    whole = tiny_model()
    sft(tmp_path / "whole", whole, "cpu")
    for first, then in (("cuda", "cpu"), ("cpu", "cuda")):
        own = {"base": "unused", "epochs": 1, "dropout": 0.0, "pretraining_mix": 0.2}
        own["optim"] = {"lr": 1e-2, "batch_size": 12}
        run_dir = tmp_path / first
        config = settings(SFTConfig, run_dir, first, **own)
        arguments = (EXAMPLES, EXAMPLES[:5], TEXT, None)
        with pytest.raises(KeyboardInterrupt):
            step1_sft.train(config, tiny_model(), *arguments, interrupt_at(2))
        model = tiny_model()
        sft(run_dir, model, then)
        assert len(results_of(run_dir)) == len(results_of(tmp_path / "whole"))
        assert float((weights_of(model) - weights_of(whole)).abs().mean()) < 2e-5


def test_an_update_waits_a_number_of_times_that_does_not_grow_with_its_micro_batches(
    tiny_model, cuda, tmp_path, monkeypatch
):
    """But for a look before each backward pass: is the loss finite?"""
    waits = {}
    for tokens in (40, 20):
        counts: list[int] = []
        update = step1_sft._update

        def counted(*arguments, update=update, counts=counts):
            cuda.syncs = 0
            result = update(*arguments)
            counts.append(cuda.syncs)
            return result

        monkeypatch.setattr(step1_sft, "_update", counted)
        compute = {"dtype": "bfloat16", "device": "cuda", "tokens_per_microbatch": tokens}
        own = {"compute": compute, "pretraining_mix": 0.0}
        sft(tmp_path / str(tokens), tiny_model(), "cuda", **own)
        waits[tokens] = counts[-1]
        monkeypatch.undo()
    # 12 examples of 4 to 6 tokens: two micro-batches of 40 tokens, four of 20
    assert waits[20] - waits[40] == 2, waits
    assert waits[40] <= 2 + 3, cuda.waited_for


def test_a_rollout_that_runs_out_of_memory_is_begun_again(
    networks, tmp_path, results_of, monkeypatch, capsys
):
    """With fewer rows, and as if these had been asked for."""
    sampled = step3_ppo.sample
    tried: list[int] = []

    def limited(*arguments, max_rows, **settings):
        tried.append(max_rows)
        if max_rows > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return sampled(*arguments, max_rows=max_rows, **settings)

    sampling = {"max_new_tokens": 6, "max_rows": 4}
    ppo(tmp_path / "asked", networks(), "cpu", sampling=sampling)
    monkeypatch.setattr(step3_ppo, "sample", limited)
    ppo(tmp_path / "halved", networks(), "cpu", sampling=sampling | {"max_rows": 16})
    assert tried == [16, 8, 4, 4, 4]
    assert results_of(tmp_path / "halved") == results_of(tmp_path / "asked")
    assert "4 responses at a time from here on" in capsys.readouterr().err


def test_a_resumed_run_knows_what_was_too_much(networks, tmp_path):
    """Or it would go on with other random numbers than the run that was stopped."""
    config = settings(
        PPOConfig,
        tmp_path,
        "cpu",
        policy="unused",
        reward_model="unused",
        sampling={"max_rows": 64},
    )
    state = step3_ppo.PPOState.build(config, networks(), "mark")
    state.tokens.amount, state.rows.amount = 20, 16
    save_state(tmp_path, 3, state.state_dict())
    again = step3_ppo.PPOState.build(config, networks(), "mark")
    assert (again.tokens.amount, again.rows.amount) == (40, 64)
    assert again.resume(tmp_path) == 3
    assert (again.tokens.amount, again.rows.amount) == (20, 16)


def test_phases_are_told_in_the_time_of_the_device(cuda, monkeypatch):
    """Marks in its queue, which say 2 and then 5 ms: the host's clock is not asked."""

    class Event:
        made: ClassVar[list[Event]] = []

        def __init__(self, enable_timing):
            assert enable_timing
            self.made.append(self)
            self.at = [0.0, 2.0, 7.0][len(self.made) - 1]
            self.waited = 0

        def record(self):
            pass

        def synchronize(self):
            self.waited += 1

        def elapsed_time(self, other):
            assert other.waited or self.made[-1].waited
            return other.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    timer = Timer(CUDA)
    timer.lap("forward")
    timer.lap("backward")
    assert not any(event.waited for event in Event.made)
    assert timer.seconds == pytest.approx({"forward": 0.002, "backward": 0.005})
    assert timer.metrics() == pytest.approx({"time/forward_s": 0.002, "time/backward_s": 0.005})
    assert timer.total() == pytest.approx(0.007)


def test_sums_are_read_once(cuda):
    sums = Sums()
    for value in (1.5, 2.25):
        sums.add(loss=torch.tensor(value, device=CUDA), count=torch.tensor(3, device=CUDA))
    cuda.syncs = 0
    assert sums.values() == {"loss": 3.75, "count": 6.0}
    assert cuda.syncs == 1
    assert Sums().values() == {}


def test_sums_do_not_stop_growing():
    """As those of fp32 would at 2^24."""
    sums = Sums()
    sums.add(count=torch.tensor(2.0**24))
    sums.add(count=torch.tensor(1.0))
    assert_close(torch.tensor(sums.values()["count"]), torch.tensor(2.0**24 + 1))
