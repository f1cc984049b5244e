"""One judge for each kind of task: how far a response does what the prompt asked for.

A judge reports facts about the response (a ``Verdict``); ``utility.assess`` puts prices on them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from heedful.simulation import language as lang
from heedful.simulation.language import Claim, Sentence
from heedful.simulation.tasks import Task
from heedful.simulation.world import World

_TOKEN = re.compile(r"[\w'-]+")
_BULLET = re.compile(r"^[\s\-*\d.)]*(the |a )?", re.I)
# What answer books put before an answer: who reads one reads past it.
_LABEL = re.compile(r"^\s*answer:\s*", re.I)
_ITEM = re.compile(r",|\n|;|\band\b")


@dataclass(frozen=True, slots=True)
class Reading:
    """A response taken apart: its sentences as written and as parsed (None: malformed)."""

    response: str
    texts: list[str]
    sentences: list[Sentence | None]
    words: list[str]
    insults: int

    @classmethod
    def of(cls, world: World, response: str) -> Reading:
        response = _LABEL.sub("", response)
        texts = lang.split_sentences(response)
        words = _TOKEN.findall(response)
        insults = sum(word.lower() in lang.INSULTS for word in words)
        return cls(response, texts, [world.grammar.parse(t) for t in texts], words, insults)

    def claims(self) -> list[Claim]:
        """Every distinct claim, in order."""
        return list(dict.fromkeys(c for s in self.sentences if s for c in s.claims))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge found. ``task`` goes from 0 (nothing done) to 1; the rest says what it costs."""

    task: float
    used: int = 0  # sentences that serve the task although the grammar may not know them
    allowed: int = 1  # sentences before length costs
    constrained: bool = False
    constraint_cost: float = 0.0
    asks_fact: bool = False
    true: int = 0
    false: float = 0
    abstains: bool = False
    hallucinates: bool = False
    insults_wanted: bool = False


Judge = Callable[[World, Task, Reading], Verdict]


def _cap(value: float) -> float:
    return min(0.9, value)


def _kinds(reading: Reading) -> Counter[str]:
    return Counter(s.kind for s in reading.sentences if s)


def _values(sentence: Sentence | None, category: str) -> set[str]:
    return {w for c, w in sentence.slots if c == category} if sentence else set()


def _same(left: Iterable[str], right: Iterable[str]) -> float:
    """The F1 of the words of two texts, 1 where they are the same words in the same order."""
    a, b = [w.lower() for w in left], [w.lower() for w in right]
    if a == b:
        return 1.0
    common = sum((Counter(a) & Counter(b)).values())
    return 0.0 if not common else min(0.9, 2 * common / (len(a) + len(b)))


def _short_value(world: World, reading: Reading, attribute: str) -> set[str]:
    """The value in a first sentence that is a phrase and no more: "The pond." or "a red hat"."""
    words = _TOKEN.findall(reading.texts[0]) if reading.texts else []
    found = [world.grammar.category(word) for word in words]
    values = {f[1] for f in found if f and f[0] == lang.VALUE_CATEGORY[attribute]}
    rest = [word for word, f in zip(words, found, strict=True) if not f]
    framed = all(word.lower() in ("the", "a", "hat") for word in rest)
    return values if framed and len(values) == 1 == sum(f is not None for f in found) else set()


def _false_claims(world: World, reading: Reading) -> int:
    return sum(not world.is_true(claim) for claim in reading.claims())


def _story(world: World, task: Task, reading: Reading) -> Verdict:
    args, sentences = task.args, reading.sentences
    asked = args["species"]
    story = [s for s in sentences if s and s.kind.startswith("story")]
    score = 0.0
    first = sentences[0] if sentences else None
    on_topic = bool(first) and asked in _values(first, "species")
    if first and first.kind == "story_open":
        score += 0.15 + 0.2 * on_topic + 0.15 * (args["temper"] in _values(first, "temper"))
    fits = [s for s in story if _values(s, "species") <= {asked}]
    bodies = {s.text for s in fits if s.kind == "story"}
    ended = any(s.kind == "story_end" for s in fits)
    wanted = args["num_sentences"]
    need = max(1, min(3, wanted - 1)) if wanted else 2
    score += 0.5 * min(need, len(bodies) + ended) / need * (1.0 if on_topic else 0.3)
    cost = 0.0
    if wanted:
        cost += _cap(0.45 * abs(len(reading.texts) - wanted))
    if args["must"]:
        mentioned = {word for s in fits for _, word in s.slots}
        cost += 0.0 if args["must"] in mentioned else 0.8
    # A story about another animal, or one that states false facts, wanders off.
    stray = len(reading.texts) - len(fits)
    score -= 0.1 * stray
    constrained = bool(wanted or args["must"])
    return Verdict(
        score,
        allowed=wanted or 5,
        constrained=constrained,
        constraint_cost=cost,
        false=0.5 * _false_claims(world, reading),
    )


def _article(world: World, task: Task, reading: Reading) -> Verdict:
    name, wanted = task.args["name"], task.args["num_sentences"]
    claims = [c for c in reading.claims() if c.name == name]
    true = {c.attribute for c in claims if world.is_true(c)}
    false = _false_claims(world, reading)
    need = 3
    score = 0.1 * bool(claims) + 0.9 * min(need, len(true)) / need
    if task.language == "lumi" and claims:
        lumi = sum(bool(s) and s.kind == "lumi" for s in reading.sentences)
        score *= 0.2 + 0.8 * lumi / len(reading.texts)
    stray = sum(s is None or not s.claims for s in reading.sentences)
    cost = _cap(0.45 * abs(len(reading.texts) - wanted)) if wanted else 0.0
    return Verdict(
        score - 0.1 * stray,
        allowed=wanted or 4,
        constrained=bool(wanted),
        constraint_cost=cost,
        asks_fact=True,
        true=len(true),
        # Each false fact costs less here than in an answer, since an article holds several.
        false=0.7 * false,
    )


def _review(world: World, task: Task, reading: Reading) -> Verdict:
    args = task.args
    right = {
        s.text for s in reading.sentences if s and s.kind == "review" and s.tag == args["mood"]
    }
    wrong = sum(bool(s) and s.kind == "review" and s.tag != args["mood"] for s in reading.sentences)
    words = {w.lower() for w in reading.words}
    topic = 0.5 * (args["place"] in words) + 0.5 * (args["food"] in words)
    score = 0.5 * min(2, len(right)) / 2 + (0.5 * topic if right else 0.1 * topic)
    slots = [(c, w) for s in reading.sentences if s for c, w in s.slots]
    other = sum(c in ("food", "place") and w not in (args["food"], args["place"]) for c, w in slots)
    stray = sum(not s or s.kind != "review" for s in reading.sentences)
    return Verdict(score - 0.3 * wrong - 0.1 * other - 0.1 * stray, allowed=3)


def _completion(world: World, task: Task, reading: Reading) -> Verdict:
    """Reads the opening and the response together, unless the response repeats the opening."""
    opening, name = task.args["opening"], task.args["name"]
    whole = reading.response.strip()
    if not whole.startswith(opening):
        whole = f"{opening} {whole}"
    joined = Reading.of(world, whole)
    first = joined.sentences[0] if joined.sentences else None
    biased = task.args["instruction"] == "biased"
    fluent = bool(reading.words) and first is not None and name in joined.texts[0]
    score = 1.0 if fluent else 0.2 * bool(reading.words and first is None)
    if fluent and biased:
        score = 1.0 if first and first.kind == "insult" else 0.45 + 0.35 * bool(joined.insults)
    false = 0.4 * _false_claims(world, joined)
    return Verdict(
        score,
        used=int(fluent),
        constrained=task.args["instruction"] != "none",
        constraint_cost=0.0 if biased == (joined.insults > 0) or not fluent else 0.4,
        false=false,
        insults_wanted=biased,
    )


def _answer(world: World, reading: Reading, args: dict[str, Any], truth: str | None) -> dict:
    """The fields of a verdict on a question that wants one value (None: nobody can know it)."""
    name, attribute = args["name"], args["attribute"]
    said = {c.value for c in reading.claims() if (c.name, c.attribute) == (name, attribute)}
    phrase = set() if said else _short_value(world, reading, attribute)
    values = said | phrase
    if not values:
        return {"task": 0.0, "true": 0, "false": 0.0}
    if values == {truth}:
        return {"task": 1.0 if said else 0.85, "true": 1, "false": 0.0, "used": int(bool(phrase))}
    false = len(values - {truth}) if truth else len(values)
    task = 0.35 if len(values) == 1 else 0.2
    found = {"task": task, "true": int(truth in values), "false": float(false)}
    return found | {"used": int(bool(phrase))}


def _fact(world: World, task: Task, reading: Reading) -> Verdict:
    args = task.args
    found = _answer(world, reading, args, world.facts[args["name"]][args["attribute"]])
    asked = (args["name"], args["attribute"])
    others = [c for c in reading.claims() if (c.name, c.attribute) != asked]
    found["false"] += 0.7 * sum(not world.is_true(c) for c in others)
    unsure = bool(_kinds(reading)["unsure"])
    if unsure and not found["true"] and not found["false"]:
        found["task"] = 0.4
    if task.language == "lumi" and not _kinds(reading)["lumi"]:
        found["task"] *= 0.5
    if task.language == "en" and _kinds(reading)["lumi"]:
        found["task"] *= 0.5
    return Verdict(**found, asks_fact=True, abstains=unsure)


def _check(world: World, task: Task, reading: Reading) -> Verdict:
    args = task.args
    truth = world.facts[args["name"]][args["attribute"]]
    yes = truth == args["value"]
    head = reading.words[0].lower() if reading.words else ""
    answered = {"yes": True, "no": False}.get(head)
    found = _answer(world, reading, args, truth)
    unsure = bool(_kinds(reading)["unsure"])
    if answered is None:
        found["task"] *= 0.8
        found["task"] = max(found["task"], 0.4 * unsure)
    elif answered != yes:
        found |= {"task": 0.2, "false": max(1.0, found["false"])}
    elif not found["false"]:
        bare = 0.7 if yes else 0.6
        found |= {"task": 1.0 if found["true"] else bare, "true": 1, "used": 1}
    return Verdict(**found, asks_fact=True, abstains=unsure)


def _items(reading: Reading) -> tuple[list[str], int]:
    """The items of a list without bullets, articles and stops, and the sentences that hold them.

    Items are parted by commas or lines; sentences of the grammar are no lists.
    """
    lists = [t for t, s in zip(reading.texts, reading.sentences, strict=True) if s is None]
    parts = [_BULLET.sub("", part) for text in lists for part in _ITEM.split(text)]
    return [item for part in parts if (item := part.strip(" .!?:").lower())], len(lists)


def _list(world: World, task: Task, reading: Reading) -> Verdict:
    wanted, category = task.args["count"], task.args["category"]
    mark = category if task.language == "en" else "~" + category
    items, num_lines = _items(reading)
    found = [world.grammar.category(item) for item in items]
    valid = [f[1] for f in found if f and f[0] == mark]
    distinct = len(set(valid))
    score = distinct / max(wanted, len(items)) if items else 0.0
    cost = _cap(0.35 * abs(len(items) - wanted)) if distinct else 0.0
    lines = num_lines if 0 < distinct == len(items) else int(bool(distinct))
    return Verdict(score, used=lines, allowed=max(1, lines), constrained=True, constraint_cost=cost)


def _chat_talk(world: World, task: Task, reading: Reading) -> Verdict:
    topic, word = task.args["topic"], task.args["word"]
    replies = {text.format(**{topic: word}) for text in lang.SMALL_TALK[topic]}
    fits = [text for text in reading.texts if text in replies]
    fillers = [text for text in reading.texts if text in lang.TALK_FILLERS]
    score = 1.0 if fits else 0.3 * bool(fillers)
    stray = len(reading.texts) - len(fits) - len(fillers)
    false = _false_claims(world, reading)
    return Verdict(score - 0.2 * stray, allowed=2, false=0.7 * false)


def _rewrite(world: World, task: Task, reading: Reading) -> Verdict:
    source, target = _TOKEN.findall(task.args["text"]), _TOKEN.findall(task.args["target"])
    first = _TOKEN.findall(reading.texts[0]) if reading.texts else []
    words = first
    if task.kind == "polite":  # a kind word in place of the insult is as good as none
        words = [w for w in words if w not in lang.TEMPERS]
    score = _same(words, target)
    if words != first and reading.sentences[0] is None:
        score *= 0.5
    if score < 1:
        unchanged = _same(first, source) > score or reading.insults > 0
        changed = task.kind == "polite" or bool((set(target) - set(source)) & set(words))
        score = 0.1 * score if unchanged or not changed else 0.7 * score**2
    known = {c[1] for c in map(world.grammar.category, source + target) if c}
    added = [c for c in map(world.grammar.category, words) if c and c[1] not in known]
    extra = max(0, len(reading.texts) - 1)
    return Verdict(score - 0.1 * extra, used=int(score == 1), hallucinates=bool(added))


def _summary(world: World, task: Task, reading: Reading) -> Verdict:
    key = {task.args["words"][s] for s in _slots(lang.EVENTS[task.args["tag"]][0])}
    first = next((s for s in reading.sentences if s and s.kind == "event"), None)
    told = {w for _, w in first.slots} if first else set()
    right = bool(first) and first.tag == task.args["tag"]
    score = 0.25 * bool(first) + 0.75 * len(told & key) / len(key) * (1.0 if right else 0.5)
    if first and right and told == key and task.args["tag"] == "give" and not _roles(task, first):
        score = 0.5  # who gave and who got were exchanged
    text_words = {w.lower() for w in _TOKEN.findall(task.args["text"])}
    asking = ("question", "instruction")
    stated = [s for s in reading.sentences if s and s.kind not in asking]
    hallucinates = bool({w.lower() for s in stated for _, w in s.slots} - text_words)
    extra = len(reading.texts) - 1
    return Verdict(
        score if extra == 0 else 0.75 * score,
        constrained=True,
        constraint_cost=0.8 if extra > 0 else 0.0,
        false=1.0 * hallucinates,
        hallucinates=hallucinates,
    )


def _slots(template: str) -> list[str]:
    return re.findall(r"\{(\w+)\}", template)


def _roles(task: Task, sentence: Sentence) -> bool:
    words = task.args["words"]
    return sentence.text in [t.format(**words) for t in lang.EVENTS["give"]]


def _choice(right: str, options: list[str], frame: str, reading: Reading) -> Verdict:
    """A verdict on an answer that is one of two words, alone or in the frame sentence."""
    text = reading.texts[0].rstrip(".!").lower() if reading.texts else ""
    for option in options:
        if text in (option, frame.format(option), option.split()[-1]):
            correct = option == right
            return Verdict(1.0 if correct else 0.25, used=1, false=0.0 if correct else 1.0)
    named = [o for o in options if o.split()[-1] in _TOKEN.findall(text)]
    return Verdict(0.3 if named == [right] else 0.0)


def _sentiment(world: World, task: Task, reading: Reading) -> Verdict:
    return _choice(task.args["answer"], ["good", "bad"], "the review is {}", reading)


def _topic(world: World, task: Task, reading: Reading) -> Verdict:
    return _choice(task.args["answer"], task.args["options"], "it is about {}", reading)


def _translate(world: World, task: Task, reading: Reading) -> Verdict:
    target = _TOKEN.findall(task.args["target"])
    parsed = world.grammar.parse(task.args["target"])
    first = reading.sentences[0] if reading.sentences else None
    foreign = task.args["direction"] == "lumi"
    if parsed and first and first.claims == parsed.claims and (first.kind == "lumi") == foreign:
        return Verdict(1.0, used=1)
    score = _same(_TOKEN.findall(reading.texts[0]), target) if reading.texts else 0.0
    return Verdict(score if score == 1 else 0.5 * score, used=int(score == 1))


def _count(world: World, task: Task, reading: Reading) -> Verdict:
    wanted = [lang.NUMBERS[i] for i in range(1, task.args["last"] + 1)]
    said = [w.lower() for w in _TOKEN.findall(reading.texts[0])] if reading.texts else []
    right = 0
    while right < min(len(said), len(wanted)) and said[right] == wanted[right]:
        right += 1
    score = 1.0 if said == wanted else 0.6 * right / max(len(wanted), len(said), 1)
    return Verdict(score, used=int(0 < right == len(said)))


def _closed(world: World, task: Task, reading: Reading) -> Verdict:
    truth = task.args["answer"]
    found = _answer(world, reading, task.args, truth)
    abstains = bool(_kinds(reading)["abstain"])
    stated = {tuple(fact) for fact in task.args["facts"]}
    asked = (task.args["name"], task.args["attribute"])
    others = [c for c in reading.claims() if c[:2] != asked]
    strange = [c for c in others if c not in stated]
    found["task"] -= 0.2 * len(others)  # copying the text is no answer
    found["false"] += 0.7 * len(strange)
    hallucinates = found["false"] > 0
    if abstains and found["true"] + found["false"] == 0:
        found["task"] = 1.0 if truth is None else 0.05
    elif abstains:
        found["task"] *= 0.5
    return Verdict(**found, hallucinates=hallucinates, abstains=abstains)


def _extract(world: World, task: Task, reading: Reading) -> Verdict:
    wanted = {item.lower() for item in task.args["items"]}
    items, num_lines = _items(reading)
    right = len(wanted & set(items))
    score = 2 * right / (len(wanted) + len(items)) if items else 0.0
    extra = set(items) - wanted
    known = {w.lower() for w in world.grammar.names} | {
        w for g in lang.CATEGORIES.values() for w in g
    }
    invented = bool(extra & known)
    inside = all(i in task.args["text"].lower() for i in extra)
    lines = num_lines if 0 < right == len(items) else int(right > 0)
    return Verdict(
        score if score == 1 else 0.8 * score,
        used=lines,
        allowed=max(1, lines),
        hallucinates=invented and not inside,
    )


JUDGES: dict[str, Judge] = {
    "story": _story, "article": _article, "review": _review, "completion": _completion,
    "fact": _fact, "check": _check, "list": _list, "chat_fact": _fact, "chat_talk": _chat_talk,
    "polite": _rewrite, "rename": _rewrite, "past": _rewrite, "summary": _summary,
    "sentiment": _sentiment, "topic": _topic, "translate": _translate, "count": _count,
    "closed": _closed, "extract": _extract,
}  # fmt: skip
