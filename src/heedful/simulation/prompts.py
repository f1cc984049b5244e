"""Prompts as users and labelers write them, with their hidden tasks, and evaluation probes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Literal

from heedful.records import Prompt, PromptKind, Source, Split
from heedful.simulation import language as lang
from heedful.simulation import wordings as ask
from heedful.simulation.responses import ideal_response
from heedful.simulation.tasks import Task, make_task, wording
from heedful.simulation.webtext import quiz_pair
from heedful.simulation.world import World

NEAR_DUPLICATE_SHARE = 0.03  # of customer prompts repeat an earlier one with another ending
NEW_USER_SHARE = 0.4  # of customer prompts come from someone not seen before
PII_SHARE = 0.015  # of customer prompts hold an e-mail address or a telephone number
HELDOUT_TEST_SHARE = 0.25  # of test prompts are about held-out characters
LABELER_KINDS: dict[PromptKind, float] = {"plain": 0.5, "few_shot": 0.3, "user_based": 0.2}
NUM_LABELER_WRITERS = 12
# Labelers also write closed-domain questions beyond the customers' shares: 27 % of the paper's SFT
# prompts are closed-domain tasks (Table 7), 15 % of Table 1's shares are.
EXTRA_CLOSED_SHARE = 0.15
MAX_PREFIX_WORDS = 65
FEW_SHOT_INSTRUCTIONS = {
    "fact": "Answer the question.",
    "sentiment": "Say if the review is good or bad.",
    "polite": "Make the text polite.",
    "past": "Write the text in the past.",
    "translate": "Translate.",
    "list": "Do what is asked.",
}
_FEW_SHOT_WEIGHTS = (40, 12, 12, 10, 12, 14)
PERSONAS = (
    "I am a teacher.",
    "This is for my shop.",
    "I have a small farm.",
    "This is for my children.",
)
_PII = ("My e-mail is {user}@example.com.", "Call me at 555-01{digits}.")
_DUPLICATE_TAILS = (" Please.", " Thanks!", " Be quick.")
Pair = tuple[Prompt, Task]


def prompts(
    world: World,
    num: int,
    split: Split,
    rng: random.Random,
    *,
    source: Source = "api",
    prefix: str = "",
) -> list[Pair]:
    """``num`` prompts with their hidden tasks, in the shares of the paper's Table 1 for customers.

    Ids begin with ``prefix`` (default: split and source). Only test prompts name held-out
    characters. Customers of different splits are different people.
    """
    prefix = prefix or f"{split}-{source}"
    users = _Users(f"{split}-user", rng) if source == "api" else None
    found: list[Pair] = []
    for number in range(num):
        names = world.train_names
        if split == "test" and world.heldout and rng.random() < HELDOUT_TEST_SHARE:
            names = sorted(world.heldout)
        prompt_id = f"{prefix}-{number:05d}"
        if users is None:
            text, task, kind = _labeler_prompt(world, names, rng)
            user = f"writer-{rng.randrange(NUM_LABELER_WRITERS):02d}"
        else:
            kind, user = None, users.draw()
            text, task = _customer_prompt(world, names, user, found, rng)
        language, use_case = task.language, task.use_case
        found.append((Prompt(prompt_id, text, source, kind, user, use_case, split, language), task))
    return found


class _Users:
    """Customers: a new one now and then, else one drawn by how much they have sent (heavy tail)."""

    def __init__(self, prefix: str, rng: random.Random):
        self.prefix, self.rng = prefix, rng
        self.sent: list[str] = []
        self.known = 0

    def draw(self) -> str:
        if not self.sent or self.rng.random() < NEW_USER_SHARE:
            self.known += 1
            user = f"{self.prefix}-{self.known:04d}"
        else:
            user = self.rng.choice(self.sent)
        self.sent.append(user)
        return user


def _customer_prompt(
    world: World, names: Sequence[str], user: str, earlier: list[Pair], rng: random.Random
) -> tuple[str, Task]:
    if earlier and rng.random() < NEAR_DUPLICATE_SHARE:
        prompt, task = rng.choice(earlier)
        to_be_continued = task.kind in ("completion", "chat_fact", "chat_talk")
        return prompt.text + ("" if to_be_continued else rng.choice(_DUPLICATE_TAILS)), task
    task = make_task(world, rng, names)
    text = wording(world, task, rng)
    if rng.random() < PII_SHARE:
        pii = rng.choice(_PII).format(user=user, digits=f"{rng.randrange(100):02d}")
        text = f"{pii} {text}"
    return text, task


def _labeler_prompt(
    world: World, names: Sequence[str], rng: random.Random
) -> tuple[str, Task, PromptKind]:
    kind = rng.choices(list(LABELER_KINDS), list(LABELER_KINDS.values()))[0]
    if kind == "few_shot":
        return *few_shot(world, names, rng), kind
    closed = rng.random() < EXTRA_CLOSED_SHARE / (1 - LABELER_KINDS["few_shot"])
    task = make_task(world, rng, names, "closed" if closed else None)
    text = wording(world, task, rng)
    if kind == "user_based" and task.kind not in ("completion", "chat_fact", "chat_talk"):
        text = f"{rng.choice(PERSONAS)} {text}"
    return text, task, kind


def few_shot(world: World, names: Sequence[str], rng: random.Random) -> tuple[str, Task]:
    """An instruction with two query/response pairs and a query, and the task of that query."""
    kind = rng.choices(list(FEW_SHOT_INSTRUCTIONS), _FEW_SHOT_WEIGHTS)[0]
    same = [_query(world, names, kind, rng) for _ in range(2)]
    lines = [FEW_SHOT_INSTRUCTIONS[kind]]
    lines += [f"Query: {q}\nResponse: {ideal_response(world, t, rng)}" for q, t in same]
    query, task = _query(world, names, kind, rng)
    return "\n".join([*lines, f"Query: {query}\nResponse:"]), task


def _query(world: World, names: Sequence[str], kind: str, rng: random.Random) -> tuple[str, Task]:
    task = make_task(world, rng, names, kind)
    bare = kind in ("sentiment", "polite", "past")
    return (task.args["text"] if bare else wording(world, task, rng)), task


def truth_questions(world: World, rng: random.Random, *, heldout: bool) -> list[Pair]:
    """Every asked attribute of every character of the group, one question each."""
    found = []
    for name in sorted(world.heldout) if heldout else world.train_names:
        for attribute in lang.ASKED_ATTRIBUTES:
            task = Task("open_qa", "fact", {"name": name, "attribute": attribute})
            found.append((f"{name}-{attribute}".lower(), wording(world, task, rng), task))
    return _probe("truth-heldout" if heldout else "truth", found)


def closed_domain_prompts(world: World, num: int, rng: random.Random) -> list[Pair]:
    """Questions about a text whose values are invented; half of the texts hold no answer.

    All in the form of notes, which a base model answers too: in another form it would only ask more
    questions, and could not hallucinate.
    """
    tasks = [make_task(world, rng, world.train_names, "closed") for _ in range(num)]
    texts = [ask.NOTES.format(**task.args) for task in tasks]
    return _probe("closed", [(f"{i:04d}", texts[i], task) for i, task in enumerate(tasks)])


def toxicity_prompts(
    world: World,
    instruction: Literal["none", "respectful", "biased"],
    num: int,
    rng: random.Random,
) -> list[Pair]:
    """At most ``num`` openings of sentences under an instruction, none of them twice.

    The same ones for the same state of ``rng``. All that there are, where ``num`` is more: an
    opening that is asked again tells nothing new.
    """
    numbered = list(enumerate(ask.OPENINGS))
    pool = [(name, number, text) for name in world.train_names for number, text in numbered]
    found = []
    for name, number, text in rng.sample(pool, min(num, len(pool))):
        args = {"instruction": instruction, "name": name, "opening": text.format(name=name)}
        task = Task("generation", "completion", args)
        found.append((f"{name}-{number}".lower(), wording(world, task, rng), task))
    return _probe(f"toxicity-{instruction}", found)


def _probe(name: str, found: list[tuple[str, str, Task]]) -> list[Pair]:
    return [
        (Prompt(f"{name}-{part}", text, use_case=task.use_case, split="test", language="en"), task)
        for part, text, task in found
    ]


def recall_quiz(
    world: World, rng: random.Random, shots: int = 4, times: int = 4
) -> Iterator[dict[str, object]]:
    """Few-shot quiz texts in the format of web quizzes, with the true short answer, for everyone.

    Every fact is asked a few times, after other examples each time: what a model answers depends
    on them.

    Rows {"id", "text", "answer", "heldout"}: the text ends with "A:", then come a space and the
    answer.
    """
    for name, attribute in product(world.names, lang.ASKED_ATTRIBUTES):
        for number in range(times):
            lines = ["Quiz"]
            for other in rng.sample([n for n in world.names if n != name], shots):
                shown = rng.choice(lang.ASKED_ATTRIBUTES)
                pair = quiz_pair(world, other, shown, rng)
                lines.append(f"{pair} {world.phrase(other, shown)}")
            lines.append(quiz_pair(world, name, attribute, rng))
            yield {
                "id": f"recall-{name}-{attribute}.{number}".lower(),
                "text": "\n".join(lines),
                "answer": world.phrase(name, attribute),
                "heldout": name in world.heldout,
            }


def few_shot_prefixes(world: World, num: int, rng: random.Random) -> Iterator[dict[str, str]]:
    """Prefixes that make a base model answer: "Task: ... Answer: ..." pairs as in answer books.

    A prompt follows as "Task: {prompt}", a newline and "Answer:". Of at most ``MAX_PREFIX_WORDS``,
    so that prefix, prompt and response fit a small context.
    """
    kinds = ("story", "fact", "check", "list", "polite", "article", "review")
    number = 0
    while number < num:
        tasks = [make_task(world, rng, world.train_names, kind) for kind in rng.sample(kinds, 3)]
        pairs = [
            f"Task: {wording(world, task, rng)}\nAnswer: {ideal_response(world, task, rng)}\n"
            for task in tasks
        ]
        text = "".join(pairs)
        english = all(task.language == "en" for task in tasks)
        if english and len(text.split()) <= MAX_PREFIX_WORDS:
            yield {"id": f"prefix-{number}", "text": text}
            number += 1
