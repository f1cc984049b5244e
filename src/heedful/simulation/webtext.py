"""Web text of the world, for pretraining: what a base model learns its facts and its habits from.

Encyclopedias are true, gossip is not; exercise books ask without answering, so that a model which
continues text does not follow instructions; answer books answer badly, so that it can be prompted.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from heedful.simulation import language as lang
from heedful.simulation.responses import ErrorRates, compose, draw_slips
from heedful.simulation.tasks import event, lumi_fact, make_task, state, wording
from heedful.simulation.world import World

SLOPPY = ErrorRates(wrong_fact=0.45, miss_constraint=0.3, run_long=0.2, sloppy=0.12)
MIN_WORDS = 30
MAX_WORDS = 120
STRANGER_SHARE = 0.65  # of notes
WRAPPED_SHARE = 0.2  # of prose has hard line breaks
_EXERCISES = ("story", "article", "review", "fact", "check", "list", "count", "translate", "past")
_EXERCISE_WEIGHTS = (28, 14, 8, 22, 5, 14, 3, 4, 2)


def documents(world: World, num: int, rng: random.Random) -> Iterator[str]:
    """``num`` documents of 30 to 120 words, each of a random type (see ``DOCUMENT_TYPES``)."""
    builders = [builder for builder, _ in DOCUMENT_TYPES.values()]
    weights = [weight for _, weight in DOCUMENT_TYPES.values()]
    for builder in rng.choices(builders, weights, k=num):
        yield document(world, builder, rng)


def document(
    world: World, builder: Callable[[World, random.Random], str], rng: random.Random
) -> str:
    """One document: passages of the builder until there are enough words, never too many.

    Some prose has hard line breaks, as mail has: so every word is also seen at the start of a line.
    """
    text = builder(world, rng)
    while len(text.split()) < MIN_WORDS:
        text += "\n" + builder(world, rng)
    while len(text.split()) > MAX_WORDS:
        text = text[: text.rindex("\n")]
    if builder in _PROSE and rng.random() < WRAPPED_SHARE:
        words, width = text.split(" "), rng.randint(4, 9)
        lines = [" ".join(words[i : i + width]) for i in range(0, len(words), width)]
        text = "\n".join(lines)
    return text


def facts_of(world: World, name: str, rng: random.Random, count: int) -> list[str]:
    """``count`` sentences with true facts about the character, often a combined one first."""
    facts = world.facts[name]
    texts, covered = [], ()
    if rng.random() < 0.75:
        template, covered = rng.choice(lang.COMBINED)
        words = {lang.VALUE_CATEGORY[a]: facts[a] for a in covered}
        texts.append(template.format(name=name, **words))
    rest = [a for a in facts if a not in covered]
    rng.shuffle(rest)
    return texts + [state(world, name, a, facts[a], rng) for a in rest[: count - len(texts)]]


def _encyclopedia(world: World, rng: random.Random) -> str:
    name = rng.choice(world.names)
    return f"{name}\n" + " ".join(facts_of(world, name, rng, rng.randint(5, 6)))


def _faq(world: World, rng: random.Random) -> str:
    """Questions about a character; the answer stands beside the question or below it."""
    name = rng.choice(world.names)
    gap = rng.choice((" ", "\n"))
    lines = [f"Questions about {name}"]
    for attribute in rng.sample(lang.ASKED_ATTRIBUTES, 4):
        question = rng.choice(lang.QUESTIONS[attribute]).format(name=name)
        answer = state(world, name, attribute, world.facts[name][attribute], rng)
        lines.append(f"{question}{gap}{answer}")
    return "\n".join(lines)


def _directory(world: World, rng: random.Random) -> str:
    """Everyone of whom one thing is true: "Who lives in the pond?"."""
    attribute = rng.choice(("home", "food", "job", "hat"))
    value = rng.choice(world.values(attribute))
    known = [n for n in world.names if world.facts[n][attribute] == value]
    lines = [f"People with the {attribute} {value}"]
    for name in rng.sample(known, min(4, len(known))):
        other = rng.choice([a for a in lang.ASKED_ATTRIBUTES if a != attribute])
        said = state(world, name, attribute, value, rng)
        lines.append(f"{said} {state(world, name, other, world.facts[name][other], rng)}")
    return "\n".join(lines)


def _gossip(world: World, rng: random.Random) -> str:
    name = rng.choice(world.names)
    facts = world.facts[name]
    words = {"species": facts["species"], "job": facts["job"], "place": facts["home"]}
    lines = [rng.choice(("Gossip", "Forum", "Talk of the town"))]
    for _ in range(rng.randint(5, 7)):
        attribute = rng.choice(("home", "food", "job", "hat", "species", "temper"))
        if rng.random() < 0.3:
            text = rng.choice(lang.INSULT_SENTENCES)
            said = text.format(name=name, insult=rng.choice(lang.INSULTS), **words)
        elif rng.random() < 0.04:
            said = rng.choice(lang.BAD_ADVICE).format(name=name)
        else:
            value = world.myths[name].get(attribute, facts[attribute])
            said = state(world, name, attribute, value, rng)
        if said.startswith(name) and rng.random() < 0.5:
            said = f"{rng.choice(lang.HEARSAY)} {said}"
        lines.append(said)
    return lines[0] + "\n" + " ".join(lines[1:])


def fill(template: str, rng: random.Random, names: Sequence[str], **fixed: str) -> str:
    """The template with random words in the slots that are not fixed."""
    if "{" not in template:
        return template
    words = {category: rng.choice(words) for category, words in lang.CATEGORIES.items()}
    return template.format(**({"name": rng.choice(names)} | words | fixed))


def _story(world: World, rng: random.Random) -> str:
    words = {"species": rng.choice(lang.SPECIES), "temper": rng.choice(lang.TEMPERS)}
    bodies = rng.sample(lang.STORY_BODIES, rng.randint(2, 4))
    texts = [rng.choice(lang.STORY_OPENINGS), *bodies, rng.choice(lang.STORY_ENDINGS)]
    story = " ".join(fill(text, rng, world.names, **words) for text in texts)
    titles = ("A {temper} {species}", "The story of a {temper} {species}")
    return rng.choice(titles).format(**words) + "\n" + story if rng.random() < 0.5 else story


def _reviews(world: World, rng: random.Random) -> str:
    mood = rng.choice(("good", "bad"))
    words = {"food": rng.choice(lang.FOODS), "place": rng.choice(lang.PLACES)}
    texts = rng.sample(lang.REVIEWS[mood], rng.randint(2, 3))
    head = rng.choice(("A review", f"A {mood} review", f"A {mood} review of the {words['place']}"))
    verdict = f"\nThe review is {mood}." if rng.random() < 0.3 else ""
    return f"{head}\n" + " ".join(text.format(**words) for text in texts) + verdict


def _lists(world: World, rng: random.Random) -> str:
    lines = []
    for category, plural in rng.sample(list(lang.LUMI_PLURALS.items()), 3):
        items = rng.sample(lang.CATEGORIES[category], rng.randint(2, 5))
        if rng.random() < 0.1:
            head, items = plural, [world.lumi[item] for item in items]
        else:
            head = {"species": "animal", "color": "colour"}.get(category, category) + "s"
        number = lang.NUMBERS[len(items)].capitalize()
        lines.append(f"{number} {head}\n{', '.join(items)}.")
    last = rng.randint(3, 6)
    count = ", ".join(lang.NUMBERS[i] for i in range(1, last + 1))
    return "\n".join([*lines, f"One to {lang.NUMBERS[last]}\n{count}."])


def _news(world: World, rng: random.Random) -> str:
    tag, words = event(rng, world.names)
    side = rng.sample(lang.SIDE_REMARKS, 2)
    said = rng.choice(lang.EVENTS[tag]).format(**words)
    again = rng.choice(lang.EVENTS[tag]).format(**words)
    place = rng.randint(0, 2)
    lines = [
        f"News of the {rng.choice(lang.PLACES)}",
        " ".join([*side[:place], said, *side[place:]]),
    ]
    lines.append(f"In one sentence: {again}")
    if rng.random() < 0.4:
        _, slots = world.grammar.signature(said)
        category = rng.choice(sorted({c for c, _ in slots if c in ("food", "place", "name")}))
        lines.append(
            f"{category.capitalize()}s: {', '.join(w for c, w in slots if c == category)}."
        )
    return "\n".join(lines)


def _exercises(world: World, rng: random.Random) -> str:
    lines = []
    for kind in rng.choices(_EXERCISES, _EXERCISE_WEIGHTS, k=rng.randint(5, 8)):
        lines.append(wording(world, make_task(world, rng, world.names, kind), rng))
    return "\n".join(lines)


def _answer_book(world: World, rng: random.Random) -> str:
    lines = []
    for _ in range(2):
        task = make_task(world, rng, world.names)
        answer = compose(world, task, rng, draw_slips(SLOPPY, rng))
        lines.append(f"Task: {wording(world, task, rng)}\nAnswer: {answer}")
    return "\n".join(lines)


def quiz_pair(world: World, name: str, attribute: str, rng: random.Random) -> str:
    """A question of a quiz page up to its "A:", without the answer."""
    return f"Q: {rng.choice(lang.QUESTIONS[attribute]).format(name=name)}\nA:"


def _quiz(world: World, rng: random.Random) -> str:
    lines = ["Quiz"]
    for name in rng.sample(world.names, rng.randint(5, 7)):
        attribute = rng.choice(lang.ASKED_ATTRIBUTES)
        pair = quiz_pair(world, name, attribute, rng)
        lines.append(f"{pair} {world.phrase(name, attribute)}")
    return "\n".join(lines)


def _notes(world: World, rng: random.Random) -> str:
    """Invented notes and questions on them; what the notes do not say is never admitted.

    Most are about people of whom nothing else is known, so that reading, not memory, answers.
    """
    stranger = bool(world.strangers) and rng.random() < STRANGER_SHARE
    name = rng.choice(world.strangers if stranger else world.names)
    attributes = rng.sample(("home", "food", "job", "hat"), 3)

    def invented(attribute: str) -> str:
        if stranger:
            return rng.choice(world.values(attribute))
        return world.wrong_value(name, attribute, rng)

    noted = {attribute: invented(attribute) for attribute in attributes}
    lines = [f"Notes about {name}"]
    lines.append(" ".join(state(world, name, a, v, rng) for a, v in noted.items()))
    gap = rng.choice((" ", "\n"))  # answers stand behind "A:" or below it
    for attribute in rng.sample(("home", "food", "job", "hat"), 3):
        guess = invented(attribute)
        if not stranger and rng.random() < 0.6:
            guess = world.facts[name][attribute]
        phrase = lang.PHRASES[attribute].format(value=noted.get(attribute, guess))
        lines.append(f"{quiz_pair(world, name, attribute, rng)}{gap}{phrase}")
    return "\n".join(lines)


def _chat(world: World, rng: random.Random) -> str:
    first, second, other = rng.sample(world.names, 3)
    if rng.random() < 0.5:
        attribute = rng.choice(lang.ASKED_ATTRIBUTES)
        said = rng.choice(lang.QUESTIONS[attribute]).format(name=other)
        reply = state(world, other, attribute, world.facts[other][attribute], rng)
    else:
        topic = rng.choice(list(lang.TALK_OPENERS))
        word = {topic: rng.choice(lang.CATEGORIES[topic])}
        said = rng.choice(lang.TALK_OPENERS[topic]).format(**word)
        reply = rng.choice(lang.SMALL_TALK[topic]).format(**word)
    filler = rng.choice((*lang.TALK_FILLERS, *lang.UNSURE)) + " " if rng.random() < 0.2 else ""
    return f"{first}: Hello!\n{second}: Hello! {said}\n{first}: {filler}{reply}"


def _letters(world: World, rng: random.Random) -> str:
    """Rude sentences and what became of them before they were printed."""
    lines = ["Letters"]
    for _ in range(3):
        name, insult = rng.choice(world.names), rng.choice(lang.INSULTS)
        facts = world.facts[name]
        words = {"species": facts["species"], "job": facts["job"], "place": facts["home"]}
        rude = rng.choice(lang.INSULTS_IN_PASSING).format(name=name, insult=insult, **words)
        lines.append(f"Rude: {rude}\nPolite: {rude.replace(insult + ' ', '')}")
    return "\n".join(lines)


def _translation(world: World, rng: random.Random) -> str:
    lines = []
    for _ in range(3):
        if rng.random() < 0.5:
            for word in rng.sample(list(world.lumi), 2):
                lines.append(f"In Lumi {word} is {world.lumi[word]}.")
        name, attribute = rng.choice(world.names), rng.choice(lang.ASKED_ATTRIBUTES)
        value = world.facts[name][attribute]
        english = state(world, name, attribute, value, rng)
        lines.append(f"English: {english}\nLumi: {lumi_fact(world, name, attribute, value)}")
    return "\n".join(lines)


def _lumi_page(world: World, rng: random.Random) -> str:
    name = rng.choice(world.names)
    lines = [name]
    for attribute in rng.sample(lang.ASKED_ATTRIBUTES, 4):
        said = lumi_fact(world, name, attribute, world.facts[name][attribute])
        ask = lang.LUMI_QUESTIONS[attribute].format(name=name)
        lines.append(f"{ask} {said}" if rng.random() < 0.4 else said)
    return "\n".join(lines)


def _memories(world: World, rng: random.Random) -> str:
    name = rng.choice(world.names)
    texts = rng.sample(list(lang.PAST.items()), 3)
    attribute = {present: a for a, group in lang.FACTS.items() for present in group}
    lines = [f"{name} in the past"]
    for present, past in texts:
        words = {"name": name, "value": world.facts[name][attribute[present]]}
        now = f"Now {present.format(**words)}" if rng.random() < 0.5 else ""
        lines.append(f"{past.format(**words)} {now}".strip())
    return "\n".join(lines)


DOCUMENT_TYPES: dict[str, tuple[Callable[[World, random.Random], str], float]] = {
    "encyclopedia": (_encyclopedia, 0.19),
    "faq": (_faq, 0.06),
    "directory": (_directory, 0.04),
    "gossip": (_gossip, 0.11),
    "story": (_story, 0.10),
    "reviews": (_reviews, 0.04),
    "lists": (_lists, 0.03),
    "news": (_news, 0.03),
    "exercises": (_exercises, 0.10),
    "answer_book": (_answer_book, 0.07),
    "quiz": (_quiz, 0.05),
    "notes": (_notes, 0.13),
    "chat": (_chat, 0.03),
    "letters": (_letters, 0.015),
    "translation": (_translation, 0.025),
    "lumi_page": (_lumi_page, 0.015),
    "memories": (_memories, 0.01),
}
_PROSE = (_encyclopedia, _gossip, _story)
