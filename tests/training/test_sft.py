"""Step 1 on a tiny model: it learns, selects, resumes, and publishes what transformers can run."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from heedful.config import SFTConfig
from heedful.data.examples import Example
from heedful.data.text import TextRows
from heedful.errors import CheckpointError, DataError
from heedful.models.attention import Packed
from heedful.models.language_model import hidden_states
from heedful.rollout.engine import sample
from heedful.training.checkpoint import publish
from heedful.training.loop import Adam, derive_seed
from heedful.training.passes import make_sequences, response_logprobs, to_rows
from heedful.training.step1_sft import num_updates, train, valid_loss

EOS = 0
# To every prompt "a b" the response is "b a a" and EOS.
EXAMPLES = [
    Example([a, b], [b, a, a, EOS]) for a in range(2, 8) for b in range(10, 16) if (a + b) % 5
]
VALID = [Example([a, b], [b, a, a, EOS]) for a in range(2, 8) for b in range(10, 16)]
TEXT = TextRows((torch.arange(500) % 20 + 40).numpy().astype("uint32"), 8)


def settings(run_dir, **changes):
    values = {
        "run_dir": str(run_dir),
        "base": "unused",
        "data": {},
        "epochs": 4,
        "dropout": 0.0,
        "optim": {"lr": 1e-2, "batch_size": 8},
        "compute": {"dtype": "float32"},
        "log": {"save_every": 5},
    }
    return SFTConfig.model_validate(values | changes)


@pytest.fixture
def first_gradient(monkeypatch):
    """The gradient of the first update, unclipped, by the name of the parameter."""
    found: dict[str, torch.Tensor] = {}
    step = Adam.step

    def spy(self, *arguments):
        if not found:
            parts = self.master.grad.split(self.sizes)
            for name, part, parameter in zip(self.names, parts, self.parameters, strict=True):
                found[name] = part.view(parameter.shape).clone()
        return step(self, *arguments)

    monkeypatch.setattr(Adam, "step", spy)
    return found


def test_it_learns_and_the_published_model_answers_the_same(tiny_model, tokenizer, tmp_path):
    model = tiny_model("llama")
    last = train(settings(tmp_path, epochs=25), model, EXAMPLES, VALID)
    assert last["sft/loss"] < 0.2
    assert last["valid/loss"] < 0.5
    place = publish(model, tokenizer, tmp_path / "model", {})
    theirs = AutoModelForCausalLM.from_pretrained(place, attn_implementation="eager")
    prompts = [example.prompt for example in VALID]
    rollout = sample(model, prompts, max_new_tokens=6, temperature=0, eos=EOS, pad=1)
    generated = theirs.generate(
        torch.tensor(prompts), do_sample=False, max_new_tokens=rollout.tokens.shape[1]
    )
    assert rollout.tokens.tolist() == generated[:, 2:].tolist()
    right = [row == e.response for row, e in zip(rollout.rows(), VALID, strict=True)]
    assert sum(right) > 0.8 * len(VALID)


@pytest.mark.parametrize("architecture", ["gpt2", "qwen3", "gemma3"])
def test_other_architectures_learn_too(tiny_model, tmp_path, architecture, results_of):
    train(settings(tmp_path, epochs=4), tiny_model(architecture), EXAMPLES, [])
    losses = [row["sft/loss"] for row in results_of(tmp_path)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_resumed_run_is_the_uninterrupted_one(
    tiny_model, tmp_path, results_of, interrupt_at, dropout
):
    def run(name, seed=0, stop=0):
        changes = {"dropout": dropout, "pretraining_mix": 0.2, "select": "valid_loss"}
        model = tiny_model("llama", seed=seed)
        config = settings(tmp_path / name, **changes)
        train(config, model, EXAMPLES, VALID, TEXT, progress=interrupt_at(stop))
        return model

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("cut", stop=9)
    resumed = run("cut", seed=3)
    assert results_of(tmp_path / "cut") == results_of(tmp_path / "whole")
    for (name, mine), other in zip(resumed.named_parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, other), name


def test_other_settings_or_data_do_not_resume(tiny_model, tmp_path, interrupt_at):
    with pytest.raises(KeyboardInterrupt):
        train(settings(tmp_path), tiny_model(), EXAMPLES, [], progress=interrupt_at(6))
    for config, examples in (
        (settings(tmp_path, dropout=0.1), EXAMPLES),
        (settings(tmp_path), EXAMPLES[1:]),
    ):
        with pytest.raises(CheckpointError, match="other settings or data"):
            train(config, tiny_model(), examples, [])


def test_micro_batches_change_nothing(tiny_model, tmp_path, results_of):
    for name, tokens in (("one", 8192), ("eight", 6)):
        compute = {"dtype": "float32", "tokens_per_microbatch": tokens}
        config = settings(tmp_path / name, epochs=1, compute=compute, pretraining_mix=0.5)
        train(config, tiny_model("llama"), EXAMPLES, [], TEXT)
    pairs = zip(results_of(tmp_path / "one"), results_of(tmp_path / "eight"), strict=True)
    for one, eight in pairs:
        for key in ("sft/loss", "sft/text_loss", "optim/grad_norm"):
            assert one[key] == pytest.approx(eight[key], rel=1e-5), key


def test_the_gradient_mixes_demonstrations_and_text(tiny_model, tmp_path, first_gradient):
    """0.8 of the mean over response tokens, 0.2 of the mean over text, by the library's labels."""
    examples = [Example([5, 6, 7], [8, EOS]), Example([9], [10, 11, 12, EOS])]
    config = settings(tmp_path, pretraining_mix=0.2, epochs=1, optim={"lr": 1e-9, "batch_size": 2})
    train(config, tiny_model("llama"), examples, [], TEXT)

    theirs = tiny_model("llama", attention="eager")
    rows = torch.tensor([[5, 6, 7, 8, EOS], [9, 10, 11, 12, EOS]])
    labels = torch.tensor([[-100, -100, -100, 8, EOS], [-100, 10, 11, 12, EOS]])
    text = TEXT.draw(1, derive_seed(0, "text", 0))  # 2 examples * 0.2 / 0.8 = half a row: one
    loss = 0.8 * theirs(input_ids=rows, labels=labels).loss
    (loss + 0.2 * theirs(input_ids=text, labels=text).loss).backward()
    for name, parameter in theirs.named_parameters():
        assert_close(first_gradient[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_prompt_tokens_are_trained_where_asked(tiny_model, tmp_path, first_gradient):
    config = settings(tmp_path, loss_on_prompt=True, epochs=1, optim={"lr": 1e-9, "batch_size": 1})
    train(config, tiny_model("llama"), [Example([5, 6, 7], [8, EOS])], [])
    theirs = tiny_model("llama", attention="eager")
    rows = torch.tensor([[5, 6, 7, 8, EOS]])
    theirs(input_ids=rows, labels=rows).loss.backward()
    for name, parameter in theirs.named_parameters():
        assert_close(first_gradient[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_the_epoch_of_the_best_score_is_kept(tiny_model, tmp_path):
    seen = []

    def score(model):
        seen.append([parameter.clone() for parameter in model.parameters()])
        return [1.0, 3.0, 2.0, 0.0][len(seen) - 1]

    model = tiny_model("llama")
    config = settings(tmp_path, select="score", reward_model="unused")
    train(config, model, EXAMPLES, [], score_model=score)
    assert len(seen) == 4
    for mine, best in zip(model.parameters(), seen[1], strict=True):
        assert torch.equal(mine, best)


def test_a_resumed_run_remembers_the_best_epoch(tiny_model, tmp_path, interrupt_at):
    """The first of four epochs is the best, and the run is cut in the third."""

    def run(name, values, stop=0):
        scores = iter(values)
        model = tiny_model("llama")
        config = settings(tmp_path / name, select="score", reward_model="unused")
        progress = interrupt_at(stop)
        train(config, model, EXAMPLES, [], None, lambda model: next(scores), progress)
        return model

    whole = run("whole", [3.0, 1.0, 0.0, 2.0])
    with pytest.raises(KeyboardInterrupt):
        run("cut", [3.0, 1.0], stop=9)
    resumed = run("cut", [1.0, 0.0, 2.0])  # from update 5: epochs of 4 updates
    for mine, other in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("select", ["score", "valid_loss"])
def test_selection_without_its_measure_is_an_error(tiny_model, tmp_path, select):
    with pytest.raises(DataError, match=f'select = "{select}" needs'):
        train(settings(tmp_path, select=select), tiny_model(), EXAMPLES, [])


def test_no_demonstrations_is_an_error(tiny_model, tmp_path):
    with pytest.raises(DataError, match="no demonstration"):
        train(settings(tmp_path), tiny_model(), [], [])


def test_updates_of_a_number_of_epochs(tmp_path):
    assert num_updates(settings(tmp_path, epochs=2), 20) == (5, 3)
    assert num_updates(settings(tmp_path, epochs=0.5), 20) == (2, 3)
    assert num_updates(settings(tmp_path, epochs=0.01), 20) == (1, 3)


@torch.no_grad()
def test_response_logprobs_are_the_librarys(tiny_model):
    ours, theirs = tiny_model("gpt2"), tiny_model("gpt2", attention="eager")
    prompts, responses = [[4, 5, 6], [7], [8, 9]], [[10], [11, 12, 13], [14, EOS]]
    batch = make_sequences(prompts, responses)
    found = to_rows(response_logprobs(ours, batch, temperature=0.5), batch, 4)
    assert found.shape == (3, 4)
    total = 0.0
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        z = theirs(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        logprobs = torch.log_softmax(z / 0.5, -1)
        expected = logprobs.gather(1, torch.tensor(response)[:, None])[:, 0]
        assert_close(found[i, : len(response)], expected, rtol=1e-4, atol=1e-4)
        assert not bool(found[i, len(response) :].any())
        plain = torch.log_softmax(z, -1).gather(1, torch.tensor(response)[:, None])
        total -= float(plain.sum())
    examples = [Example(p, r) for p, r in zip(prompts, responses, strict=True)]
    assert valid_loss(ours, examples, max_tokens=5) == pytest.approx(total / 6, rel=1e-4)


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="an empty prompt predicts no response token"):
        make_sequences([[2], []], [[3], [4]])


def test_a_trained_model_is_at_rest(tiny_model, tmp_path):
    """Dropout was on in training; afterwards two passes agree."""
    model = tiny_model("llama")
    train(settings(tmp_path, dropout=0.5, epochs=1), model, EXAMPLES, [])
    tokens, layout = torch.arange(2, 12), Packed([10])
    with torch.no_grad():
        first, second = (hidden_states(model, tokens, layout) for _ in range(2))
    assert torch.equal(first, second)
