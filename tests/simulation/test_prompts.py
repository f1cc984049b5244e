"""Prompts, their hidden tasks, demonstrations and probes."""

import random
from collections import Counter

from heedful.records import USE_CASES
from heedful.simulation import language as lang
from heedful.simulation.prompts import (
    closed_domain_prompts,
    few_shot_prefixes,
    prompts,
    recall_quiz,
    toxicity_prompts,
    truth_questions,
)
from heedful.simulation.responses import (
    ErrorRates,
    ideal_response,
    write_demonstration,
)
from heedful.simulation.tasks import Task, read_tasks, write_tasks
from heedful.simulation.world import World

WORLD = World(0)
NUM = 6000


def _names_in(text):
    return {name for name in WORLD.names if name in text}


def test_use_cases_and_lumi_come_in_the_shares_of_the_paper():
    found = prompts(WORLD, NUM, "train", random.Random(0))
    counts = Counter(prompt.use_case for prompt, _ in found)
    total = sum(USE_CASES.values())
    for use_case, percent in USE_CASES.items():
        share = percent / total
        deviation = (share * (1 - share) / NUM) ** 0.5
        assert abs(counts[use_case] / NUM - share) < 4.5 * deviation, use_case
    foreign = sum(prompt.language == "lumi" for prompt, _ in found) / NUM
    assert 0.03 < foreign < 0.05
    toxic = [t for _, t in found if t.args.get("instruction") in ("respectful", "biased")]
    assert abs(len(toxic) / counts["generation"] - 0.12) < 0.02


def test_heldout_characters_appear_only_in_test_prompts():
    rng = random.Random(1)
    for split in ("train", "valid"):
        for source in ("api", "labeler"):
            for prompt, task in prompts(WORLD, 1500, split, rng, source=source):
                response = write_demonstration(WORLD, task, rng)
                assert not _names_in(prompt.text + " " + response) & WORLD.heldout
    named = [_names_in(p.text) for p, _ in prompts(WORLD, 1500, "test", rng)]
    heldout = sum(bool(names & WORLD.heldout) for names in named)
    assert 0.15 < heldout / sum(map(bool, named)) < 0.35


def test_customers_are_heavy_tailed_repeat_themselves_and_leak_addresses():
    found = prompts(WORLD, 3000, "train", random.Random(2))
    users = Counter(prompt.user for prompt, _ in found)
    sizes = sorted(users.values(), reverse=True)
    assert sizes[0] > 100 and sum(size == 1 for size in sizes) > len(sizes) / 3
    assert sum("@example.com" in p.text or "555-01" in p.text for p, _ in found) > 20
    texts = {prompt.text for prompt, _ in found}
    assert sum(t.endswith((" Please.", " Thanks!", " Be quick.")) for t in texts) > 40
    other = {p.user for p, _ in prompts(WORLD, 500, "valid", random.Random(2))}
    assert not other & set(users)
    assert len({p.id for p, _ in found}) == len(found)


def test_labelers_write_three_kinds_of_prompts():
    found = prompts(WORLD, 2000, "train", random.Random(3), source="labeler")
    kinds = Counter(prompt.kind for prompt, _ in found)
    assert kinds.keys() == {"plain", "few_shot", "user_based"} and min(kinds.values()) > 300
    for prompt, _ in found:
        if prompt.kind == "few_shot":
            assert prompt.text.count("Query:") == 3 and prompt.text.endswith("Response:")
            assert prompt.text.count("Response: ") == 2


def test_prompts_fit_a_small_context():
    rng = random.Random(4)
    for source in ("api", "labeler"):
        found = prompts(WORLD, 2000, "train", rng, source=source)
        assert max(len(prompt.text.split()) for prompt, _ in found) <= 75


def test_closed_texts_hold_the_answer_half_of_the_time():
    found = closed_domain_prompts(WORLD, 600, random.Random(5))
    present = 0
    for prompt, task in found:
        args = task.args
        assert args["text"] in prompt.text and args["question"] in prompt.text
        assert all(WORLD.facts[n][a] != v for n, a, v in args["facts"])  # invented
        stated = {(n, a): v for n, a, v in args["facts"]}
        assert stated.get((args["name"], args["attribute"])) == args["answer"]
        present += args["answer"] is not None
    assert 0.42 < present / len(found) < 0.58


def test_wrong_facts_come_at_the_writers_rate():
    rng = random.Random(6)
    rates = ErrorRates(wrong_fact=0.25, miss_constraint=0, run_long=0, sloppy=0)
    true = unsure = 0
    for _ in range(1500):
        name, attribute = rng.choice(WORLD.train_names), rng.choice(lang.ASKED_ATTRIBUTES)
        task = Task("open_qa", "fact", {"name": name, "attribute": attribute})
        response = write_demonstration(WORLD, task, rng, rates)
        true += WORLD.facts[name][attribute] in response
        unsure += response in lang.UNSURE
    assert abs(true / 1500 - 0.75) < 0.05
    assert abs(unsure / 1500 - 0.05) < 0.025  # a fifth of the mistakes is not to know


def test_ideal_responses_vary():
    rng = random.Random(7)
    story = Task(
        "generation",
        "story",
        {"species": "frog", "temper": "wise", "num_sentences": None, "must": None},
    )
    name = WORLD.train_names[0]
    fact = Task("open_qa", "fact", {"name": name, "attribute": "home"})
    assert len({ideal_response(WORLD, story, rng) for _ in range(50)}) > 45
    assert len({ideal_response(WORLD, fact, rng) for _ in range(50)}) == 3


def test_probes_ask_everything_once_and_keep_groups_apart():
    rng = random.Random(8)
    known = truth_questions(WORLD, rng, heldout=False)
    unknown = truth_questions(WORLD, rng, heldout=True)
    assert len(known) == 48 * 5 and len(unknown) == 16 * 5
    assert all(task.args["name"] in WORLD.heldout for _, task in unknown)
    assert len({prompt.id for prompt, _ in known + unknown}) == 64 * 5
    openings = []
    for instruction in ("none", "respectful", "biased"):
        found = toxicity_prompts(WORLD, instruction, 40, random.Random(9))
        assert all(prompt.text.endswith(task.args["opening"]) for prompt, task in found)
        openings.append([task.args["opening"] for _, task in found])
    assert openings[0] == openings[1] == openings[2]


def test_no_toxicity_probe_is_asked_twice():
    few = toxicity_prompts(WORLD, "biased", 100, random.Random(9))
    assert len(few) == len({prompt.text for prompt, _ in few}) == 100
    everything = toxicity_prompts(WORLD, "biased", 1000, random.Random(9))
    assert len(everything) == len({prompt.text for prompt, _ in everything}) == 48 * 4
    assert len({prompt.id for prompt, _ in everything}) == 48 * 4
    characters = {prompt.id.rpartition("-")[0] for prompt, _ in everything}
    assert characters == {f"toxicity-biased-{name}".lower() for name in WORLD.train_names}


def test_recall_quizzes_end_before_the_true_answer():
    rows = list(recall_quiz(WORLD, random.Random(10), shots=4, times=3))
    assert len(rows) == 64 * 5 * 3 and sum(row["heldout"] for row in rows) == 16 * 5 * 3
    assert len({row["id"] for row in rows}) == len({row["text"] for row in rows}) == len(rows)
    for row in rows:
        assert row["text"].endswith("\nA:") and row["text"].count("Q: ") == 5
        name = next(n for n in WORLD.names if n in row["text"].split("Q: ")[-1])
        values = WORLD.facts[name].values()
        assert any(value in row["answer"].split() for value in values)


def test_prefixes_are_short_answer_books_without_heldout_characters():
    rows = list(few_shot_prefixes(WORLD, 8, random.Random(11)))
    assert len(rows) == 8
    for row in rows:
        assert row["text"].startswith("Task: ") and row["text"].count("\nAnswer: ") == 3
        assert row["text"].endswith("\n") and len(row["text"].split()) <= 65
        assert not _names_in(row["text"]) & WORLD.heldout


def test_tasks_survive_their_file(tmp_path):
    found = prompts(WORLD, 300, "train", random.Random(12))
    pairs = {prompt.id: task for prompt, task in found}
    assert write_tasks(tmp_path / "tasks.jsonl", pairs.items()) == 300
    assert read_tasks(tmp_path / "tasks.jsonl") == pairs


def test_labelers_write_more_closed_domain_questions_than_customers():
    found = prompts(WORLD, NUM, "train", random.Random(0), source="labeler")
    share = sum(prompt.use_case == "closed_qa" for prompt, _ in found) / NUM
    # 0.15 of all prompts, and 2.6 % of the 55 % that are drawn as customers' are
    assert abs(share - (0.15 + 0.55 * 0.026)) < 0.02
