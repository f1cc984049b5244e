"""Step 2 on a tiny model: it learns to rank, is centered, resumes, and loads as a classifier."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from heedful.config import RewardConfig
from heedful.data.examples import Example, RankedPrompt
from heedful.errors import CheckpointError, DataError
from heedful.metrics import read_metrics
from heedful.models.scalar_model import load_scalar_model, scalar_model_from
from heedful.training import step2_reward
from heedful.training.checkpoint import publish
from heedful.training.passes import (
    final_scores,
    make_sequences,
    microbatches_by_prompt,
    response_values,
    to_rows,
)
from heedful.training.step2_reward import evaluate, score_all, train

EOS = 0
GOOD = 7  # a labeler of this toy world prefers the response that says it more often


def rankings(count: int, seed: int, completions: int = 4) -> list[RankedPrompt]:
    chooser = random.Random(seed)
    rows = []
    for i in range(count):
        prompt = [chooser.randrange(20, 40) for _ in range(chooser.randrange(1, 4))]
        # three of twelve tokens are good, so ties come too
        responses = [
            [chooser.choice([GOOD, *range(50, 54)]) for _ in range(chooser.randrange(1, 6))]
            for _ in range(completions)
        ]
        counts = [response.count(GOOD) for response in responses]
        ranks = [1 + sum(other > count for other in counts) for count in counts]
        responses = [[*response, EOS] for response in responses]
        rows.append(RankedPrompt(str(i), prompt, responses, ranks, None, "train"))
    return rows


TRAIN, VALID = rankings(120, seed=0), rankings(40, seed=1)
DEMONSTRATIONS = [Example(row.prompt, row.responses[0]) for row in rankings(30, seed=2)]


def settings(run_dir, **changes):
    values = {
        "run_dir": str(run_dir),
        "base": "unused",
        "data": {},
        "epochs": 1,
        "optim": {"lr": 3e-3, "batch_size": 8},
        "compute": {"dtype": "float32"},
        "log": {"save_every": 4},
    }
    return RewardConfig.model_validate(values | changes)


@pytest.fixture
def fresh(tiny_model, tokenizer, tmp_path):
    """Makes an untrained reward model of an architecture."""

    def make(architecture="llama", seed=0):
        directory = tmp_path / "base" / architecture
        if not directory.exists():
            publish(tiny_model(architecture), tokenizer, directory, {})
        return scalar_model_from(directory, seed)

    return make


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_it_learns_and_the_published_model_scores_the_same(
    fresh, tokenizer, tmp_path, architecture
):
    model = fresh(architecture)
    before = evaluate(model, VALID, 8192)
    last = train(settings(tmp_path, epochs=3), model, TRAIN, VALID, DEMONSTRATIONS)
    assert last["valid/accuracy"] > 0.9 > before.accuracy
    assert last["valid/loss"] < 0.4 < before.loss

    ours = score_all(model, DEMONSTRATIONS, 50)
    assert abs(float(ours.mean())) < 1e-4
    assert float(ours.std()) > 0.1
    publish(model, tokenizer, tmp_path / "model", {})
    theirs = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "model", attn_implementation="eager"
    )
    sequences = [e.prompt + e.response for e in DEMONSTRATIONS]
    batch = tokenizer.pad({"input_ids": sequences}, return_tensors="pt")
    with torch.no_grad():
        scores = theirs(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).logits[:, 0]
    torch.testing.assert_close(scores, ours, rtol=1e-4, atol=1e-4)
    assert abs(float(scores.mean())) < 1e-4
    again = score_all(load_scalar_model(tmp_path / "model"), DEMONSTRATIONS, 8192)
    torch.testing.assert_close(again, ours, rtol=1e-4, atol=1e-4)


def test_a_resumed_run_is_the_uninterrupted_one(fresh, tmp_path, results_of, interrupt_at):
    def run(name, seed=0, stop=0):
        model = fresh(seed=seed)
        config = settings(tmp_path / name)
        train(config, model, TRAIN, VALID, DEMONSTRATIONS, interrupt_at(stop))
        return model

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("cut", stop=6)
    resumed = run("cut", seed=3)
    assert results_of(tmp_path / "cut") == results_of(tmp_path / "whole")
    for (name, mine), other in zip(resumed.named_parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, other), name


def test_a_run_with_only_its_model_left_to_publish(fresh, tmp_path, results_of):
    """The last update is done again with its centering, which must not happen twice."""
    config = settings(tmp_path, log={"save_every": 1})
    first, again = fresh(), fresh(seed=3)
    train(config, first, TRAIN, VALID, DEMONSTRATIONS)
    before = results_of(tmp_path)
    train(config, again, TRAIN, VALID, DEMONSTRATIONS)
    assert results_of(tmp_path) == before
    for mine, other in zip(again.parameters(), first.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_other_settings_or_data_do_not_resume(fresh, tmp_path, interrupt_at):
    with pytest.raises(KeyboardInterrupt):
        train(settings(tmp_path), fresh(), TRAIN, [], (), interrupt_at(5))
    for config, prompts in (
        (settings(tmp_path, batching="shuffled_pairs"), TRAIN),
        (settings(tmp_path), TRAIN[1:]),
        (settings(tmp_path), [*TRAIN, TRAIN[0]._replace(labeler="b")]),
    ):
        with pytest.raises(CheckpointError, match="other settings or data"):
            train(config, fresh(), prompts, [])


def test_micro_batches_change_nothing(fresh, tmp_path, results_of):
    for name, tokens in (("one", 8192), ("eight", 10)):
        compute = {"dtype": "float32", "tokens_per_microbatch": tokens}
        train(settings(tmp_path / name, compute=compute), fresh(), TRAIN[:40], [])
    pairs = zip(results_of(tmp_path / "one"), results_of(tmp_path / "eight"), strict=True)
    for one, eight in pairs:
        for key in ("reward/loss", "optim/grad_norm"):
            assert one[key] == pytest.approx(eight[key], rel=1e-4), key
        assert one["reward/num_pairs"] == eight["reward/num_pairs"]


@torch.no_grad()
def test_evaluation_counts_pairs_as_a_loop_does(fresh):
    model = fresh()
    # a second labeler saw three of the four responses, in another order, and ranked them otherwise
    second = [
        row._replace(responses=row.responses[2::-1], ranks=[2, 1, 2], labeler="b") for row in VALID
    ]
    losses, right, pairs = [], 0, 0
    for row in [*VALID, *second]:
        examples = [Example(row.prompt, response) for response in row.responses]
        scores = score_all(model, examples, 8192).double()
        own = []
        for i in range(len(row.ranks)):
            for j in range(len(row.ranks)):
                if row.ranks[i] < row.ranks[j]:
                    difference = scores[i] - scores[j]
                    own.append(float(torch.log1p(torch.exp(-difference))))
                    right += 0.5 * float(difference >= 0) + 0.5 * float(difference > 0)
        pairs += len(own)
        losses += [sum(own) / len(own)] if own else []
    found = evaluate(model, [*VALID, *second], 64)
    assert (found.num_pairs, found.num_rankings) == (pairs, len(losses))
    assert found.accuracy == pytest.approx(right / pairs)
    assert found.loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_shuffled_pairs_are_the_same_pairs_one_by_one(fresh, tmp_path, results_of):
    for batching in ("k_wise", "shuffled_pairs"):
        train(settings(tmp_path / batching, batching=batching), fresh(), TRAIN, [])
    expected = sum(a < b for row in TRAIN for a in row.ranks for b in row.ranks)
    for name in ("k_wise", "shuffled_pairs"):
        counts = [row["reward/num_pairs"] for row in results_of(tmp_path / name)]
        # the last batch is filled up with elements of the next pass
        assert expected <= sum(counts) < expected + max(counts)
    assert len({row["reward/num_pairs"] for row in results_of(tmp_path / "shuffled_pairs")}) == 1


def test_a_response_is_read_once_however_many_labelers_ranked_it(fresh, tmp_path, results_of):
    """Two labelers of the same mind: the same losses as one, in as many updates."""
    second = [row._replace(labeler="b") for row in TRAIN]
    for name, rows in (("one", TRAIN), ("two", [*TRAIN, *second])):
        train(settings(tmp_path / name), fresh(), rows, [])
    one, two = results_of(tmp_path / "one"), results_of(tmp_path / "two")
    for first, both in zip(one, two, strict=True):
        assert both["reward/loss"] == pytest.approx(first["reward/loss"], rel=1e-4)
        assert both["optim/grad_norm"] == pytest.approx(first["optim/grad_norm"], rel=1e-3)
        assert both["reward/num_pairs"] == 2 * first["reward/num_pairs"]
    first, both = (read_metrics(tmp_path / name) for name in ("one", "two"))
    assert list(map(num_tokens, both)) == pytest.approx(list(map(num_tokens, first)))


def num_tokens(row: dict[str, float]) -> float:
    return row["speed/tokens_per_s"] * row["time/update_s"]


def test_many_rankings_of_one_prompt_still_fit_the_micro_batch(
    fresh, tmp_path, results_of, monkeypatch
):
    """The same losses and gradients in parts of whole rankings as all at once."""
    many = [row._replace(prompt_id="same", prompt=[20, 21]) for row in TRAIN[:24]]
    largest = []
    ranking_pass = step2_reward._ranking_pass

    def watched(model, part):
        largest.append(sum(len(e.prompt) + sum(map(len, e.responses)) for e in part))
        return ranking_pass(model, part)

    monkeypatch.setattr(step2_reward, "_ranking_pass", watched)
    for name, tokens in (("one", 8192), ("parts", 60)):
        largest.clear()
        compute = {"dtype": "float32", "tokens_per_microbatch": tokens}
        train(settings(tmp_path / name, compute=compute), fresh(), many, [])
    assert len(largest) > 4 and max(largest) <= 60
    (whole,), (parts,) = results_of(tmp_path / "one"), results_of(tmp_path / "parts")
    for key in ("reward/loss", "optim/grad_norm"):
        assert parts[key] == pytest.approx(whole[key], rel=1e-4)
    assert parts["reward/num_pairs"] == whole["reward/num_pairs"]


# A prompt with three responses, one with one, one that begins another, one that stands apart.
PROMPTS = [[20, 21, 22, 23, 24, 25], [20, 21], [30], [20, 21, 22, 23, 24, 25], [30], [30, 20]]
RESPONSES = [[50, 51, EOS], [50, 51, EOS], [52, EOS], [53] * 7, [51, 52, 53, 52, EOS], [50]]
PROMPTS, RESPONSES = [*PROMPTS, PROMPTS[0]], [*RESPONSES, [51, 50, 20, 21, EOS]]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3", "gemma3"])
def test_scores_and_gradients_of_shared_prompts_are_those_of_separate_ones(fresh, architecture):
    """The oracle reads every prompt with its response by itself, with the library's attention."""
    ours, theirs = fresh(architecture), fresh(architecture)
    theirs.set_attn_implementation("eager")
    weights = torch.randn(len(PROMPTS), generator=torch.Generator().manual_seed(0))
    batch = make_sequences(PROMPTS, RESPONSES, share_prompts=True)
    assert len(batch.tokens) == 6 + 2 + 1 + 2 + sum(map(len, RESPONSES))
    scores = final_scores(ours, batch)
    rows = [torch.tensor([p + r]) for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    expected = torch.cat([theirs(row, use_cache=False).logits[0] for row in rows])
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)
    (weights * scores).sum().backward()
    (weights * expected).sum().backward()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        scale, difference = float(other.grad.abs().max()), (mine.grad - other.grad).abs().max()
        assert float(difference) <= 1e-5 * max(scale, 1e-3), name


@torch.no_grad()
def test_scores_do_not_depend_on_the_order_of_responses_or_on_micro_batches(fresh):
    model = fresh()
    examples = [Example(p, r) for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    scores = score_all(model, examples, 8192)
    order = [4, 6, 0, 5, 2, 3, 1]
    again = score_all(model, [examples[i] for i in order], 8192)
    torch.testing.assert_close(again, scores[order], rtol=1e-5, atol=1e-6)
    for max_tokens in (1, 12):
        torch.testing.assert_close(
            score_all(model, examples, max_tokens), scores, atol=1e-5, rtol=0
        )
    assert score_all(model, [], 8192).tolist() == []


@torch.no_grad()
def test_equal_responses_tie_exactly(fresh):
    row = Example([20, 21, 22], [50, 51, 52, EOS])
    others = [Example(row.prompt, [50 + i % 3] * (1 + i % 5)) for i in range(11)]
    for max_tokens in (8, 8192):
        scores = score_all(fresh(), [row, *others, row, *others], max_tokens)
        assert torch.equal(scores[:12], scores[12:])


def test_micro_batches_keep_a_prompt_together_and_count_it_once():
    prompts = [[2, 3, 4, 5], [6], [2, 3, 4, 5], [6], [2, 3, 4, 5]]
    responses = [[9], [9], [9, 9], [9, 9, 9], [9, 9, 9]]
    # prompt 2 3 4 5 with all its responses is 10 tokens, prompt 6 with its is 5
    assert microbatches_by_prompt(prompts, responses, 15) == [[0, 2, 4, 1, 3]]
    assert microbatches_by_prompt(prompts, responses, 14) == [[0, 2, 4], [1, 3]]
    # 4 + 1 + 2 fit into 7, and the third response reads the prompt again
    assert microbatches_by_prompt(prompts, responses, 7) == [[0, 2], [4], [1, 3]]
    assert [len(group) for group in microbatches_by_prompt(prompts, responses, 1)] == [1] * 5


def test_tokens_per_second_count_a_prompt_once(fresh, tmp_path):
    rows = [RankedPrompt("a", [20] * 6, [[50], [51, 50], [52]], [1, 2, 3], None, "train")]
    rows.append(RankedPrompt("b", [21] * 3, [[50, 51], [52]], [1, 2], None, "train"))
    train(settings(tmp_path, optim={"lr": 1e-3, "batch_size": 2}), fresh(), rows, [])
    (row,) = read_metrics(tmp_path)
    num_tokens = row["speed/tokens_per_s"] * row["time/update_s"]
    assert num_tokens == pytest.approx(6 + 1 + 2 + 1 + 3 + 2 + 1)


def test_rankings_of_ties_alone_teach_nothing(fresh, tmp_path):
    ties = [row._replace(ranks=[1, 1, 1, 1]) for row in TRAIN]
    with pytest.raises(DataError, match="no untied pair"):
        train(settings(tmp_path), fresh(), ties, [])


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("prompts", [[[20, 21], [22]], [[20, 21], [20, 21]]])
@torch.no_grad()
def test_a_value_is_the_score_of_what_stands_before_the_token(fresh, architecture, prompts):
    """The value function starts as the reward model: its value is the score of the prefix."""
    model = fresh(architecture)
    responses = [[50, 51, EOS], [52, EOS]]
    batch = make_sequences(prompts, responses, share_prompts=True)
    values = to_rows(response_values(model, batch), batch, 3)
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        for j in range(len(response)):
            prefix = make_sequences([prompt], [response[:j]])
            score = float(final_scores(model, prefix))
            assert float(values[i, j]) == pytest.approx(score, abs=1e-5)
