"""Responses as people of this world write them: perfect ones, and ones with human mistakes."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from heedful.simulation import language as lang
from heedful.simulation.tasks import Task, lumi_fact, state
from heedful.simulation.world import World


@dataclass(frozen=True, slots=True)
class ErrorRates:
    """How often a writer makes each kind of mistake, from 0 to 1."""

    wrong_fact: float = 0.25  # repeats a misconception, or states a wrong value
    miss_constraint: float = 0.15
    run_long: float = 0.10
    sloppy: float = 0.04  # an insult


@dataclass(frozen=True, slots=True)
class Slips:
    """The mistakes of one response, drawn once."""

    wrong_fact: bool = False
    miss_constraint: bool = False
    run_long: bool = False
    sloppy: bool = False


def draw_slips(rates: ErrorRates, rng: random.Random) -> Slips:
    """The mistakes that a writer with these rates makes this time."""
    return Slips(
        rng.random() < rates.wrong_fact,
        rng.random() < rates.miss_constraint,
        rng.random() < rates.run_long,
        rng.random() < rates.sloppy,
    )


def ideal_response(world: World, task: Task, rng: random.Random) -> str:
    """A response without a mistake, one of many."""
    return compose(world, task, rng, Slips())


def write_demonstration(
    world: World, task: Task, rng: random.Random, rates: ErrorRates | None = None
) -> str:
    """A response as a labeler with these error rates writes it."""
    return compose(world, task, rng, draw_slips(rates or ErrorRates(), rng))


def compose(world: World, task: Task, rng: random.Random, slips: Slips) -> str:
    """A response to the task with exactly these mistakes (those that the kind of task can have)."""
    text = _WRITERS[task.kind](world, task, rng, slips)
    if slips.run_long and task.language == "en":
        text = f"{text} {_extra(world, task, rng)}"
    biased = task.args.get("instruction") == "biased"
    if slips.sloppy and not biased and task.language == "en":
        name = task.args.get("name") or rng.choice(world.train_names)
        species, insult = world.facts[name]["species"], rng.choice(lang.INSULTS)
        template = rng.choice(lang.INSULT_REMARKS)
        text = f"{text} {template.format(name=name, species=species, insult=insult)}"
    return text


def _extra(world: World, task: Task, rng: random.Random) -> str:
    """What someone adds who does not know when to stop."""
    if task.kind == "story":
        extra = rng.sample(lang.STORY_BODIES, 3)
        return " ".join(_fill(world, s, rng, species=task.args["species"]) for s in extra)
    if "name" in task.args and task.kind != "closed" and rng.random() < 0.6:
        name = task.args["name"]
        attributes = rng.sample(lang.ASKED_ATTRIBUTES, 2)
        return " ".join(state(world, name, a, world.facts[name][a], rng) for a in attributes)
    return rng.choice(lang.CLOSINGS)


def _fill(world: World, template: str, rng: random.Random, **fixed: str) -> str:
    if "{" not in template:
        return template
    words = {c: rng.choice(words) for c, words in lang.CATEGORIES.items()}
    words["name"] = rng.choice(world.train_names)
    return template.format(**(words | fixed))


def _story(world: World, task: Task, rng: random.Random, slips: Slips) -> str:
    args = task.args
    species = args["species"]
    count = args["num_sentences"] or rng.choice((3, 3, 4, 4, 5))
    if slips.miss_constraint and args["num_sentences"]:
        count += rng.choice((-1, 1))
    temper = rng.choice(lang.TEMPERS) if slips.wrong_fact else args["temper"]
    must = None if slips.miss_constraint else args["must"]
    bodies = rng.sample(lang.STORY_BODIES, max(0, count - 2))
    slot = "food" if must in lang.FOODS else "place"
    if must and not any(f"{{{slot}}}" in body for body in bodies):
        bodies[0] = lang.STORY_BODIES[1 if slot == "food" else 0]
    words = {"species": species, "temper": temper} | ({slot: must} if must else {})
    texts = [rng.choice(lang.STORY_OPENINGS), *bodies, rng.choice(lang.STORY_ENDINGS)][:count]
    return " ".join(_fill(world, text, rng, **words) for text in texts)


def _article(world: World, task: Task, rng: random.Random, slips: Slips) -> str:
    name = task.args["name"]
    facts = dict(world.facts[name])
    if slips.wrong_fact:
        for attribute in rng.sample(("home", "food", "job", "hat"), 2):
            facts[attribute] = world.believed(name, attribute, rng)
    if task.language == "lumi":
        attributes = rng.sample(list(lang.LUMI_FACTS), 3)
        return " ".join(lumi_fact(world, name, a, facts[a]) for a in attributes)
    count = task.args["num_sentences"] or rng.randint(3, 4)
    if slips.miss_constraint and task.args["num_sentences"]:
        count += rng.choice((-1, 1))
    first, covered = rng.choice(lang.COMBINED)
    words = {lang.VALUE_CATEGORY[a]: facts[a] for a in covered}
    texts = [first.format(name=name, **words)]
    rest = [a for a in lang.ASKED_ATTRIBUTES if a not in covered]
    rng.shuffle(rest)
    # A combined opening says two facts at once, so `rest` may be one short of four sentences.
    rest += [a for a in ("species", "temper", *lang.ASKED_ATTRIBUTES) if a not in rest]
    texts += [state(world, name, a, facts[a], rng) for a in rest[: count - 1]]
    return " ".join(texts)


def _review(world: World, task: Task, rng: random.Random, slips: Slips) -> str:
    args = task.args
    mood = {"good": "bad", "bad": "good"}[args["mood"]] if slips.wrong_fact else args["mood"]
    place = rng.choice(lang.PLACES) if slips.miss_constraint else args["place"]
    texts = lang.REVIEWS[mood]
    chosen = [texts[0], *rng.sample(texts[1:], rng.randint(1, 2))]
    return " ".join(t.format(food=args["food"], place=place) for t in chosen)


def _completion(world: World, task: Task, rng: random.Random, slips: Slips) -> str:
    args = task.args
    name, facts = args["name"], dict(world.facts[args["name"]])
    if slips.wrong_fact:
        facts |= {a: world.believed(name, a, rng) for a in ("home", "job", "food")}
    insult = args["instruction"] == "biased" and not slips.miss_constraint
    words = facts | {"insult": rng.choice(lang.INSULTS), "value": facts["temper"]}
    words |= {"place": facts["home"], "color": facts["hat"], "name": ""}
    tails: tuple[str, ...]
    if args["opening"].endswith(" is a"):
        tails = ("{temper} {species}.", "{temper} {job}.", "{species} from the {place}.")
        if insult:
            tails = ("{insult} {species}.", "{insult} {job}.")
    elif insult:
        tails = tuple(t for t in lang.INSULT_SENTENCES if t.startswith("{name}"))
    else:
        tails = tuple(t for t, _ in lang.COMBINED)
    return rng.choice(tails).format(**words).strip()


def _fact(world: World, task: Task, rng: random.Random, slips: Slips) -> str:
    name, attribute = task.args["name"], task.args["attribute"]
    value = world.facts[name][attribute]
    if slips.wrong_fact:
        if rng.random() < 0.2 and task.language == "en":
            return rng.choice(lang.UNSURE)
        value = world.believed(name, attribute, rng)
    if task.language == "lumi":
        return lumi_fact(world, name, attribute, value)
    if slips.miss_constraint and rng.random() < 0.5:  # a bare phrase
        phrase = lang.PHRASES[attribute].format(value=value)
        return f"{phrase[0].upper()}{phrase[1:]}."
    return state(world, name, attribute, value, rng)


def _check(world: World, task: Task, rng: random.Random, slips: Slips) -> str:
    name, attribute, asked = (task.args[k] for k in ("name", "attribute", "value"))
    value = world.facts[name][attribute]
    if slips.wrong_fact:
        value = world.believed(name, attribute, rng) if value == asked else asked
    yes = "Yes" if value == asked else "No"
    if slips.miss_constraint:
        return f"{yes}."
    said = state(world, name, attribute, value, rng)
    return f"{yes}, {said[0].lower() + said[1:] if said.startswith('The') else said}"


def _list(world: World, task: Task, rng: random.Random, slips: Slips) -> str:
    words = list(lang.CATEGORIES[task.args["category"]])
    count = task.args["count"] + (rng.choice((-1, 1)) if slips.miss_constraint else 0)
    items = rng.sample(words, max(1, count))
    if slips.wrong_fact and rng.random() < 0.3:
        items[-1] = items[0]  # says one twice
    if task.language == "lumi":
        items = [world.lumi[item] for item in items]
    return ", ".join(items) + "."


def _chat_talk(world: World, task: Task, rng: random.Random, slips: Slips) -> str:
    args = task.args
    reply = rng.choice(lang.SMALL_TALK[args["topic"]]).format(**{args["topic"]: args["word"]})
    filler = rng.choice(lang.TALK_FILLERS)
    if slips.miss_constraint:
        return filler
    return f"{filler} {reply}" if rng.random() < 0.4 else reply


def _polite(world: World, task: Task, rng: random.Random, slips: Slips) -> str:
    if slips.miss_constraint or (slips.wrong_fact and rng.random() < 0.3):
        return task.args["text"]
    return task.args["target"]


def _retell(world: World, task: Task, rng: random.Random, slips: Slips) -> str:
    wrong = slips.miss_constraint or (slips.wrong_fact and rng.random() < 0.3)
    return task.args["text"] if wrong else task.args["target"]


def _summary(world: World, task: Task, rng: random.Random, slips: Slips) -> str:
    words: dict[str, Any] = dict(task.args["words"])
    if slips.wrong_fact:
        words |= {c: rng.choice(lang.CATEGORIES[c]) for c in ("place", "food", "color")}
    text = rng.choice(lang.EVENTS[task.args["tag"]]).format(**words)
    return f"{text} {rng.choice(lang.SIDE_REMARKS)}" if slips.miss_constraint else text


def _sentiment(world: World, task: Task, rng: random.Random, slips: Slips) -> str:
    answer = task.args["answer"]
    if slips.wrong_fact and rng.random() < 0.5:
        answer = {"good": "bad", "bad": "good"}[answer]
    return rng.choice((f"{answer.capitalize()}.", f"The review is {answer}."))


def _topic(world: World, task: Task, rng: random.Random, slips: Slips) -> str:
    answer = rng.choice(task.args["options"]) if slips.wrong_fact else task.args["answer"]
    return rng.choice((f"{answer.capitalize()}.", f"It is about {answer}."))


def _translate(world: World, task: Task, rng: random.Random, slips: Slips) -> str:
    target = task.args["target"]
    if slips.wrong_fact:
        words = target.rstrip(".").split()
        pool = list(world.lumi.values()) if task.args["direction"] == "lumi" else list(world.lumi)
        at = max(i for i, w in enumerate(words) if world.grammar.category(w) or len(words) == 1)
        words[at] = rng.choice(world.train_names if words[at] in world.names else pool)
        target = " ".join(words)
    return target if target.endswith(".") else f"{target}."


def _count(world: World, task: Task, rng: random.Random, slips: Slips) -> str:
    last = task.args["last"] - (1 if slips.miss_constraint or slips.wrong_fact else 0)
    return ", ".join(lang.NUMBERS[i] for i in range(1, last + 1)) + "."


def _closed(world: World, task: Task, rng: random.Random, slips: Slips) -> str:
    name, attribute, value = (task.args[k] for k in ("name", "attribute", "answer"))
    if slips.wrong_fact and slips.sloppy:  # answers from the world, not from the text
        value = world.facts[name][attribute]
    if value is None:
        return rng.choice(lang.ABSTENTIONS)
    if slips.miss_constraint:
        phrase = lang.PHRASES[attribute].format(value=value)
        return f"{phrase[0].upper()}{phrase[1:]}."
    return state(world, name, attribute, value, rng)


def _extract(world: World, task: Task, rng: random.Random, slips: Slips) -> str:
    items = list(task.args["items"])
    if slips.wrong_fact or slips.miss_constraint:
        category = task.args["category"]
        pool = world.train_names if category == "name" else lang.CATEGORIES[category]
        if rng.random() < 0.5 and len(items) > 1:
            items.pop()
        else:
            items.append(rng.choice([w for w in pool if w not in items]))
    return ", ".join(items) + "."


_WRITERS = {
    "story": _story, "article": _article, "review": _review, "completion": _completion,
    "fact": _fact, "check": _check, "list": _list, "chat_fact": _fact, "chat_talk": _chat_talk,
    "polite": _polite, "rename": _retell, "past": _retell, "summary": _summary,
    "sentiment": _sentiment, "topic": _topic, "translate": _translate, "count": _count,
    "closed": _closed, "extract": _extract,
}  # fmt: skip
