"""What prompts ask for: the ten use cases, their wordings, and the hidden truth about each prompt.

A ``Task`` is never shown to a model or a labeler; it holds what is needed to judge a response.
A prompt is a single string; the response follows after a newline.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from heedful.records import USE_CASES
from heedful.simulation import language as lang
from heedful.simulation import wordings as ask
from heedful.simulation.rows import read_rows, write_rows
from heedful.simulation.world import World


@dataclass(frozen=True, slots=True)
class Task:
    """What a prompt asks for: its use case, its kind within it, and the arguments of that kind."""

    use_case: str
    kind: str
    args: dict[str, Any] = field(default_factory=dict)
    language: str = "en"


# Kinds of each use case with their shares. "completion" includes the toxicity instructions.
KINDS: dict[str, dict[str, float]] = {
    "generation": {"story": 0.42, "article": 0.24, "review": 0.14, "completion": 0.20},
    "open_qa": {"fact": 0.8, "check": 0.2},
    "brainstorming": {"list": 1.0},
    "chat": {"chat_fact": 0.5, "chat_talk": 0.5},
    "rewrite": {"polite": 0.4, "rename": 0.3, "past": 0.3},
    "summarization": {"summary": 1.0},
    "classification": {"sentiment": 0.6, "topic": 0.4},
    "other": {"translate": 0.7, "count": 0.3},
    "closed_qa": {"closed": 1.0},
    "extract": {"extract": 1.0},
}
USE_CASE_OF = {kind: use_case for use_case, kinds in KINDS.items() for kind in kinds}
LUMI_KINDS = ("article", "fact", "list")  # the kinds also asked in Lumi
LUMI_SHARE = 0.12  # of those kinds, so that about 4 % of all prompts are in Lumi
# Shares of the instructions of "completion": respectful + biased are 12 % of generation.
TOXICITY_SHARES = {"none": 0.4, "respectful": 0.3, "biased": 0.3}


def _story(world: World, rng: random.Random, names: Sequence[str]) -> dict[str, Any]:
    args: dict[str, Any] = {
        "temper": rng.choice(lang.TEMPERS),
        "species": rng.choice(lang.SPECIES),
        "num_sentences": None,
        "must": None,
    }
    choice = rng.random()
    if choice < 0.3:
        args["num_sentences"] = rng.randint(2, 4)
    elif choice < 0.5:
        args["must"] = rng.choice(lang.FOODS + lang.PLACES)
    return args


def _article(world: World, rng: random.Random, names: Sequence[str]) -> dict[str, Any]:
    exact = rng.randint(2, 4) if rng.random() < 0.3 else None
    return {"name": rng.choice(names), "num_sentences": exact}


def _review(world: World, rng: random.Random, names: Sequence[str]) -> dict[str, Any]:
    return {
        "mood": rng.choice(("good", "bad")),
        "food": rng.choice(lang.FOODS),
        "place": rng.choice(lang.PLACES),
    }


def _completion(world: World, rng: random.Random, names: Sequence[str]) -> dict[str, Any]:
    instruction = rng.choices(list(TOXICITY_SHARES), list(TOXICITY_SHARES.values()))[0]
    name = rng.choice(names)
    opening = rng.choice(ask.OPENINGS).format(name=name)
    return {"instruction": instruction, "name": name, "opening": opening}


def _fact(world: World, rng: random.Random, names: Sequence[str]) -> dict[str, Any]:
    return {"name": rng.choice(names), "attribute": rng.choice(lang.ASKED_ATTRIBUTES)}


def _check(world: World, rng: random.Random, names: Sequence[str]) -> dict[str, Any]:
    args = _fact(world, rng, names)
    name, attribute = args["name"], args["attribute"]
    true = rng.random() < 0.5
    wrong = world.believed(name, attribute, rng)
    return args | {"value": world.facts[name][attribute] if true else wrong}


def _list(world: World, rng: random.Random, names: Sequence[str]) -> dict[str, Any]:
    return {"category": rng.choice(list(ask.PLURALS)), "count": rng.randint(2, 5)}


def _chat_talk(world: World, rng: random.Random, names: Sequence[str]) -> dict[str, Any]:
    topic = rng.choice(list(lang.TALK_OPENERS))
    word = rng.choice(lang.CATEGORIES[topic])
    said = rng.choice(lang.TALK_OPENERS[topic]).format(**{topic: word})
    return {"topic": topic, "word": word, "said": said}


def _polite(world: World, rng: random.Random, names: Sequence[str]) -> dict[str, Any]:
    name, insult = rng.choice(names), rng.choice(lang.INSULTS)
    facts = world.facts[name]
    words = {"species": facts["species"], "job": facts["job"], "place": facts["home"]}
    text = rng.choice(lang.INSULTS_IN_PASSING).format(name=name, insult=insult, **words)
    return {"text": text, "name": name, "target": text.replace(insult + " ", "")}


def event(rng: random.Random, names: Sequence[str], tag: str | None = None) -> tuple[str, dict]:
    """The meaning of something that happened (a key of EVENTS) and the words that fill it."""
    tag = tag or rng.choice(list(lang.EVENTS))
    first, second = rng.sample(list(names), 2)
    words = {c: rng.choice(lang.CATEGORIES[c]) for c in ("place", "food", "color")}
    return tag, words | {"name": first, "name2": second}


def _rename(world: World, rng: random.Random, names: Sequence[str]) -> dict[str, Any]:
    tag, words = event(rng, names)
    text = rng.choice(lang.EVENTS[tag]).format(**words)
    old = words["name"]
    new = rng.choice([n for n in names if n not in (old, words["name2"])])
    return {"text": text, "old": old, "new": new, "target": text.replace(old, new)}


def _past(world: World, rng: random.Random, names: Sequence[str]) -> dict[str, Any]:
    name = rng.choice(names)
    attribute, template = rng.choice(
        [(a, t) for a, texts in lang.FACTS.items() for t in texts if t in lang.PAST]
    )
    words = {"name": name, "value": world.facts[name][attribute]}
    target = lang.PAST[template].format(**words)
    return {"text": template.format(**words), "target": target}


def _summary(world: World, rng: random.Random, names: Sequence[str]) -> dict[str, Any]:
    tag, words = event(rng, names)
    key = rng.choice(lang.EVENTS[tag]).format(**words)
    side = rng.sample(lang.SIDE_REMARKS, rng.randint(2, 3))
    place = rng.randint(0, 1)  # the key sentence comes first or second
    return {"text": " ".join([*side[:place], key, *side[place:]]), "tag": tag, "words": words}


def _sentiment(world: World, rng: random.Random, names: Sequence[str]) -> dict[str, Any]:
    args = _review(world, rng, names)
    sentences = rng.sample(lang.REVIEWS[args["mood"]], 2)
    return {"text": " ".join(s.format(**args) for s in sentences), "answer": args["mood"]}


def _topic(world: World, rng: random.Random, names: Sequence[str]) -> dict[str, Any]:
    name = rng.choice(names)
    first, second = rng.sample(list(ask.TOPICS), 2)
    attribute = rng.choice((first, second))
    text = rng.choice(lang.FACTS[attribute][:2])
    return {
        "text": text.format(name=name, value=world.facts[name][attribute]),
        "options": [ask.TOPICS[first], ask.TOPICS[second]],
        "answer": ask.TOPICS[attribute],
    }


def _translate(world: World, rng: random.Random, names: Sequence[str]) -> dict[str, Any]:
    direction = rng.choice(("lumi", "english"))
    if rng.random() < 0.5:
        word = rng.choice(list(world.lumi))
        text, target = word, world.lumi[word]
    else:
        name, attribute = rng.choice(names), rng.choice(lang.ASKED_ATTRIBUTES)
        text = state(world, name, attribute, world.facts[name][attribute], rng)
        target = lumi_fact(world, name, attribute, world.facts[name][attribute])
    text, target = (text, target) if direction == "lumi" else (target, text)
    return {"direction": direction, "text": text, "target": target}


def _count(world: World, rng: random.Random, names: Sequence[str]) -> dict[str, Any]:
    return {"last": rng.randint(3, 6)}


def _closed(world: World, rng: random.Random, names: Sequence[str]) -> dict[str, Any]:
    """A text with invented values; half of the time it does not hold the answer."""
    name, other = rng.sample(list(names), 2)
    asked, *rest = rng.sample(["home", "food", "job", "hat"], 3)
    stated = [(name, rest[0]), (other, asked) if rng.random() < 0.5 else (name, rest[1])]
    present = rng.random() < 0.5
    if present:
        stated.append((name, asked))
    rng.shuffle(stated)
    facts = [[n, a, world.wrong_value(n, a, rng)] for n, a in stated]
    text = " ".join(state(world, n, a, v, rng) for n, a, v in facts)
    answer = next((v for n, a, v in facts if (n, a) == (name, asked)), None)
    question = rng.choice(lang.QUESTIONS[asked]).format(name=name)
    args = {"text": text, "facts": facts, "name": name, "attribute": asked}
    return args | {"answer": answer, "question": question}


def _extract(world: World, rng: random.Random, names: Sequence[str]) -> dict[str, Any]:
    category = rng.choice(list(ask.EXTRACTED))
    first = lang.SIDE_REMARKS[rng.randrange(len(lang.SIDE_REMARKS))]
    tags = [t for t, texts in lang.EVENTS.items() if f"{{{category}}}" in texts[0]]
    sentences = []
    for tag in rng.sample(tags, 2):
        meaning, words = event(rng, names, tag)
        sentences.append(rng.choice(lang.EVENTS[meaning]).format(**words))
    sentences.insert(rng.randint(0, 2), first)
    found = [w for s in sentences for c, w in world.grammar.signature(s)[1] if c == category]
    return {"text": " ".join(sentences), "category": category, "items": list(dict.fromkeys(found))}


_MAKERS: dict[str, Callable[[World, random.Random, Sequence[str]], dict[str, Any]]] = {
    "story": _story, "article": _article, "review": _review, "completion": _completion,
    "fact": _fact, "check": _check, "list": _list, "chat_fact": _fact, "chat_talk": _chat_talk,
    "polite": _polite, "rename": _rename, "past": _past, "summary": _summary,
    "sentiment": _sentiment, "topic": _topic, "translate": _translate, "count": _count,
    "closed": _closed, "extract": _extract,
}  # fmt: skip


def state(world: World, name: str, attribute: str, value: str, rng: random.Random) -> str:
    """An English sentence that states the fact, in one of its phrasings."""
    return rng.choice(lang.FACTS[attribute]).format(name=name, value=value)


def lumi_fact(world: World, name: str, attribute: str, value: str) -> str:
    """The sentence of Lumi that states the fact."""
    words = {"name": name, lang.slot_of(attribute): world.lumi.get(value, value)}
    return lang.LUMI_FACTS[attribute].format(**words)


def make_task(
    world: World, rng: random.Random, names: Sequence[str], kind: str | None = None
) -> Task:
    """A random task about the named characters, its kind drawn in the shares of Table 1."""
    if kind is None:
        use_case = rng.choices(list(USE_CASES), list(USE_CASES.values()))[0]
        kind = rng.choices(list(KINDS[use_case]), list(KINDS[use_case].values()))[0]
    args = _MAKERS[kind](world, rng, names)
    foreign = kind in LUMI_KINDS and rng.random() < LUMI_SHARE
    if foreign and kind == "list":
        args["count"] = min(args["count"], 4)
    if foreign and kind == "article":
        args["num_sentences"] = None
    return Task(USE_CASE_OF[kind], kind, args, "lumi" if foreign else "en")


def wording(world: World, task: Task, rng: random.Random) -> str:
    """A prompt that asks for the task, in one of several wordings."""
    args, kind = task.args, task.kind
    if task.language == "lumi":
        return _lumi_wording(args, kind)
    if kind == "fact":
        return rng.choice(lang.QUESTIONS[args["attribute"]]).format(**args)
    if kind == "check":
        return lang.CHECKS[args["attribute"]].format(**args)
    if kind == "completion":
        return ask.TOXICITY_INSTRUCTIONS[args["instruction"]].format(opening=args["opening"])
    if kind in ("chat_fact", "chat_talk"):
        return _chat(args, kind, rng)
    if kind == "translate":
        return _translation_wording(args, rng)
    words = dict(args)
    if kind == "list":
        words |= {"number": lang.NUMBERS[args["count"]], "plural": _plural(args, rng)}
    elif kind == "count":
        words["last"] = lang.NUMBERS[args["last"]]
    elif kind == "extract":
        words["plural"] = ask.EXTRACTED[args["category"]]
    elif kind == "topic":
        words["first"], words["second"] = args["options"]
    return rng.choice(ask.WORDINGS[kind]).format(**words) + _constraint(args, rng)


def _plural(args: dict[str, Any], rng: random.Random) -> str:
    return rng.choice(ask.PLURALS[args["category"]])


def _constraint(args: dict[str, Any], rng: random.Random) -> str:
    if args.get("num_sentences"):
        number = lang.NUMBERS[args["num_sentences"]]
        return " " + rng.choice(ask.EXACT_LENGTH).format(number=number)
    if args.get("must"):
        thing = args["must"] if args["must"] in lang.FOODS else f"the {args['must']}"
        return " " + ask.MUST_MENTION.format(thing=thing)
    return ""


def _lumi_wording(args: dict[str, Any], kind: str) -> str:
    if kind == "fact":
        return lang.LUMI_QUESTIONS[args["attribute"]].format(**args)
    if kind == "list":
        return f"Fen {lang.LUMI_NUMBERS[args['count']]} {lang.LUMI_PLURALS[args['category']]}."
    return f"Pu {args['name']}."


def _chat(args: dict[str, Any], kind: str, rng: random.Random) -> str:
    said = args.get("said") or rng.choice(lang.QUESTIONS[args["attribute"]]).format(**args)
    head = f"This is a chat with {rng.choice(ask.PERSONAS)}.\n"
    if rng.random() < 0.5:
        head += f"You: {rng.choice(ask.CHAT_HELLOS)}\nRobot: {lang.GREETING}\n"
    return f"{head}You: {said}\nRobot:"


def _translation_wording(args: dict[str, Any], rng: random.Random) -> str:
    text, tongue = args["text"], "Lumi" if args["direction"] == "lumi" else "English"
    if " " in text:
        return f"Translate into {tongue}: {text}"
    return rng.choice((f"What is {text} in {tongue}?", f"Translate into {tongue}: {text}"))


def write_tasks(path: Path, tasks: Iterable[tuple[str, Task]]) -> int:
    """The number of rows written to ``tasks.jsonl``: the hidden truth, kept apart from prompts."""
    return write_rows(path, ({"prompt_id": i, **asdict(task)} for i, task in tasks))


def read_tasks(path: Path) -> dict[str, Task]:
    """The tasks of ``tasks.jsonl`` by prompt id."""
    needed = ("prompt_id", "use_case", "kind", "args", "language")
    return {
        row["prompt_id"]: Task(row["use_case"], row["kind"], row["args"], row["language"])
        for row in read_rows(path, needed)
    }
