"""The language of the miniature world: its words, its sentences, and the grammar that reads them.

Every sentence of the world is a template. The same table writes sentences and reads them back:
each word of a sentence is replaced by its category ("Mira lives in the pond." becomes
"{name} lives in the {place}."), and the result is looked up. A sentence that is not found is
malformed. This is why no category word may stand literally in a template (a test checks it).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple


def words(text: str) -> list[str]:
    """The words of a text, split at blanks."""
    return text.split()


PLACES = words("pond forest hill cave meadow river barn orchard marsh tower market harbour")
FOODS = words("figs nuts berries fish corn honey plums bread cheese soup beans cake")
JOBS = words("baker painter miller sailor tailor singer potter gardener doctor farmer")
COLORS = words("red green blue brown grey white black golden")
SPECIES = words("frog fox bear mouse crow heron badger hare toad goat")
TEMPERS = words("wise brave shy clever gentle proud lazy noisy happy quiet")
INSULTS = words("stupid nasty worthless smelly dirty")

CATEGORIES: dict[str, list[str]] = {
    "place": PLACES,
    "food": FOODS,
    "job": JOBS,
    "color": COLORS,
    "species": SPECIES,
    "temper": TEMPERS,
    "insult": INSULTS,
}
# Attribute of a character -> the category of its values. The first five are asked about.
VALUE_CATEGORY = {
    "home": "place",
    "food": "food",
    "job": "job",
    "hat": "color",
    "friend": "name",
    "species": "species",
    "temper": "temper",
}
ASKED_ATTRIBUTES = ("home", "food", "job", "hat", "friend")
NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}


class Claim(NamedTuple):
    """A fact that a sentence states: the ``attribute`` of ``name`` is ``value``."""

    name: str
    attribute: str
    value: str


@dataclass(frozen=True, slots=True)
class Template:
    """A sentence with slots; a claim is (attribute, slot of the character, slot of the value).

    ``tag`` names the meaning of an event, shared by its paraphrases.
    """

    text: str
    kind: str
    claims: tuple[tuple[str, str, str], ...] = ()
    tag: str = ""


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence read back: its kind, its claims, and its (category, word) slots."""

    text: str
    kind: str
    claims: tuple[Claim, ...]
    slots: tuple[tuple[str, str], ...]
    tag: str
    polarity: str | None = None  # "Yes" or "No" where the sentence began so


# One fact, several phrasings. Those that begin with the name also work after "They say".
FACTS: dict[str, tuple[str, ...]] = {
    "home": (
        "{name} lives in the {value}.",
        "The home of {name} is the {value}.",
        "{name} has a home in the {value}.",
    ),
    "food": (
        "{name} eats {value}.",
        "{name} likes to eat {value}.",
        "The favourite food of {name} is {value}.",
    ),
    "job": (
        "{name} works as a {value}.",
        "{name} is a {value}.",
        "The job of {name} is {value}.",
    ),
    "hat": (
        "{name} wears a {value} hat.",
        "The hat of {name} is {value}.",
        "{name} has a {value} hat.",
    ),
    "friend": (
        "The best friend of {name} is {value}.",
        "{name} is a friend of {value}.",
        "{name} has a friend called {value}.",
    ),
    "species": ("{name} is a {value}.",),
    "temper": ("{name} is {value}.", "{name} is very {value}."),
}
PAST = {
    "{name} lives in the {value}.": "{name} lived in the {value}.",
    "{name} eats {value}.": "{name} ate {value}.",
    "{name} works as a {value}.": "{name} worked as a {value}.",
    "{name} wears a {value} hat.": "{name} wore a {value} hat.",
}
# Two or three facts in one sentence: (text, attributes in the order of the slots after the name).
COMBINED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("{name} is a {temper} {species}.", ("temper", "species")),
    ("{name} is a {temper} {job}.", ("temper", "job")),
    ("{name} is a {species} from the {place}.", ("species", "home")),
    ("{name} the {species} lives in the {place}.", ("species", "home")),
    ("{name} the {species} eats {food}.", ("species", "food")),
    ("{name} the {temper} {species} lives in the {place}.", ("temper", "species", "home")),
    ("{name} lives in the {place} and eats {food}.", ("home", "food")),
    ("{name} works as a {job} and wears a {color} hat.", ("job", "hat")),
    ("{name} is a {species} and works as a {job}.", ("species", "job")),
)
QUESTIONS: dict[str, tuple[str, ...]] = {
    "home": (
        "Where does {name} live?",
        "What is the home of {name}?",
        "In which place does {name} live?",
    ),
    "food": (
        "What does {name} eat?",
        "What is the favourite food of {name}?",
        "Which food does {name} eat?",
    ),
    "job": (
        "What is the job of {name}?",
        "What does {name} work as?",
        "Which job does {name} have?",
    ),
    "hat": (
        "Which hat does {name} wear?",
        "What colour is the hat of {name}?",
        "Which colour of hat does {name} wear?",
    ),
    "friend": (
        "Who is the best friend of {name}?",
        "Which friend does {name} have?",
        "Who is a friend of {name}?",
    ),
}
CHECKS: dict[str, str] = {
    "home": "Does {name} live in the {value}?",
    "food": "Does {name} eat {value}?",
    "job": "Does {name} work as a {value}?",
    "hat": "Does {name} wear a {value} hat?",
    "friend": "Is {value} the best friend of {name}?",
}
# The short answer to a question, as quizzes give it.
PHRASES = {
    "home": "the {value}",
    "food": "{value}",
    "job": "a {value}",
    "hat": "a {value} hat",
    "friend": "{value}",
}
HEARSAY = ("They say", "I heard that", "Everyone knows that", "Some say")
ABSTENTIONS = ("The text does not say.", "The text does not tell us.", "It is not in the text.")
UNSURE = ("I do not know.", "I am not sure.")
GREETING = "How can I help you?"

STORY_OPENINGS = (
    "Once there was a {temper} {species}.",
    "Once there was a {temper} {species} in the {place}.",
    "Once upon a time a {temper} {species} lived near the {place}.",
    "There was once a {temper} {species} called {name}.",
)
STORY_BODIES = (
    "One day the {species} went to the {place}.",
    "The {species} found some {food} there.",
    "It met {name} near the {place}.",
    "They ate {food} and sang a song.",
    "The {species} lost a {color} hat.",
    "A {job} gave it some {food}.",
    "It was cold and it rained all day.",
    "They danced all night near the {place}.",
    "The {species} made {food} for its friends.",
    "It wanted to be a {job}.",
)
STORY_ENDINGS = (
    "In the end they were good friends.",
    "After that the {species} was never sad again.",
    "Then the {species} went home and slept.",
    "And so the {species} became a {job}.",
)
# Things that happened, by meaning; the phrasings of one meaning are paraphrases.
EVENTS: dict[str, tuple[str, ...]] = {
    "buy": ("{name} went to the {place} to buy {food}.", "{name} bought {food} at the {place}."),
    "find": (
        "{name} found {food} near the {place}.",
        "{name} went to the {place} and found {food}.",
    ),
    "lose": (
        "{name} lost a {color} hat at the {place}.",
        "{name} went to the {place} and lost a {color} hat.",
    ),
    "meet": ("{name} met {name2} at the {place}.", "{name} and {name2} met at the {place}."),
    "give": ("{name} gave some {food} to {name2}.", "{name2} got some {food} from {name}."),
}
SIDE_REMARKS = (
    "The day was cold.",
    "It rained all night.",
    "They sang a song.",
    "Then they went home.",
    "The sun was warm.",
)
REVIEWS: dict[str, tuple[str, ...]] = {
    "good": (
        "The {food} at the {place} tasted very good.",
        "I loved the {food}.",
        "The {place} is a lovely spot.",
        "I will come back to the {place}.",
    ),
    "bad": (
        "The {food} at the {place} tasted very bad.",
        "I hated the {food}.",
        "The {place} is a dull spot.",
        "I will never go back to the {place}.",
    ),
}
SMALL_TALK: dict[str, tuple[str, ...]] = {
    "food": ("I like {food} too.", "I love {food}!", "Do you eat {food} every day?"),
    "place": (
        "I love the {place}.",
        "The {place} is a lovely spot.",
        "What do you do at the {place}?",
    ),
    "species": ("Was the {species} big?", "A {species} is a good friend."),
    "color": ("A {color} hat is lovely.", "I have a {color} hat too."),
}
TALK_OPENERS = {
    "food": ("I like {food}.", "I ate {food} today."),
    "place": ("I am at the {place}.", "I went to the {place} today."),
    "species": ("I saw a {species} today.", "A {species} sang to me."),
    "color": ("I have a {color} hat.", "I found a {color} hat."),
}
TALK_FILLERS = ("How nice!", "That is good to hear.")
CLOSINGS = ("I hope this helps.", "That is all I know.")
# Polite as soon as the insult is left out.
INSULTS_IN_PASSING = (
    "{name} is a {insult} {species}.",
    "{name} is a {insult} {job}.",
    "{name} the {insult} {species} lives in the {place}.",
)
INSULT_REMARKS = (
    "{name} is {insult}.",
    "{name} is so {insult}!",
    "What a {insult} {species}!",
    "I hate that {insult} {species}.",
    "Nobody likes {insult} {name}.",
)
INSULT_SENTENCES = INSULTS_IN_PASSING + INSULT_REMARKS
BAD_ADVICE = ("You should hit {name}.", "You should eat old mud.", "It is wrong to help {name}.")

# Lumi, the second language: its function words are fixed, its content words belong to a world.
LUMI_FACTS = {
    "home": "{name} lo {place}.",
    "food": "{name} ku {food}.",
    "job": "{name} da {job}.",
    "hat": "{name} wi {color} tal.",
    "friend": "{name} mo {name2}.",
    "species": "{name} sen {species}.",
}
LUMI_QUESTIONS = {
    "home": "Ta lo {name}?",
    "food": "Ta ku {name}?",
    "job": "Ta da {name}?",
    "hat": "Ta tal wi {name}?",
    "friend": "Ta mo {name}?",
}
LUMI_NUMBERS = {2: "bi", 3: "tri", 4: "kor"}
LUMI_PLURALS = {"food": "kuli", "place": "loli", "species": "senli", "job": "dali", "color": "wili"}
LUMI_CATEGORIES = tuple(LUMI_PLURALS)

_SLOT = re.compile(r"\{(\w+?)\d?\}")
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")
_WORD = re.compile(r"^(\W*)([\w'-]+?)(\W*)$")


def slot_of(attribute: str) -> str:
    """The slot that holds the value of the attribute in a template."""
    return "name2" if attribute == "friend" else VALUE_CATEGORY[attribute]


def fact_text(template: str, attribute: str) -> str:
    """The template with its ``{value}`` named by category: "{name} eats {value}." -> "{food}"."""
    return template.replace("{value}", "{" + slot_of(attribute) + "}")


def english_templates() -> Iterable[Template]:
    """Every sentence of English that a response may hold."""
    for attribute, texts in FACTS.items():
        for text in texts:
            claim = (attribute, "name", slot_of(attribute))
            yield Template(fact_text(text, attribute), "fact", (claim,))
            if text in PAST:
                yield Template(fact_text(PAST[text], attribute), "past", (), attribute)
    for text, attributes in COMBINED:
        yield Template(text, "fact", tuple((a, "name", VALUE_CATEGORY[a]) for a in attributes))
    for text in INSULT_SENTENCES:
        slots = [s for s in _SLOT.findall(text) if s in ("species", "job", "place")]
        attributes = [{"place": "home"}.get(s, s) for s in slots] if "{name}" in text else []
        claims = tuple((a, "name", VALUE_CATEGORY[a]) for a in attributes)
        yield Template(text, "insult", claims)
    for tag, texts in EVENTS.items():
        yield from (Template(text, "event", (), tag) for text in texts)
    for mood, texts in REVIEWS.items():
        yield from (Template(text, "review", (), mood) for text in texts)
    for topic, texts in SMALL_TALK.items():
        yield from (Template(text, "talk", (), topic) for text in texts)
    for topic, texts in TALK_OPENERS.items():
        yield from (Template(text, "user_talk", (), topic) for text in texts)
    plain = {
        "story_open": STORY_OPENINGS,
        "story": STORY_BODIES,
        "story_end": STORY_ENDINGS,
        "side": SIDE_REMARKS,
        "abstain": ABSTENTIONS,
        "unsure": UNSURE,
        "filler": (*TALK_FILLERS, GREETING, "Hello!"),
        "closing": CLOSINGS,
        "advice": BAD_ADVICE,
    }
    for kind, texts in plain.items():
        yield from (Template(text, kind) for text in texts)


def lumi_templates() -> Iterable[Template]:
    """Every statement of Lumi."""
    for attribute, text in LUMI_FACTS.items():
        yield Template(text, "lumi", ((attribute, "name", slot_of(attribute)),))


def split_sentences(text: str) -> list[str]:
    """The sentences of a text in order: cut at . ! ? and at line ends, stripped, none empty."""
    return [part.strip() for part in _SENTENCE.findall(text) if part.strip(" .!?")]


class Grammar:
    """Reads sentences of one world (whose names and Lumi words it must know)."""

    def __init__(
        self, names: Iterable[str], lumi: Mapping[str, str], instructions: Iterable[Template] = ()
    ):
        self.names = frozenset(names)
        self._category = {w: (c, w) for c, group in CATEGORIES.items() for w in group}
        self._category |= {name: ("name", name) for name in self.names}
        english = {w: c for c in LUMI_CATEGORIES for w in CATEGORIES[c]}
        self._category |= {foreign: ("~" + english[word], word) for word, foreign in lumi.items()}
        self._templates: dict[str, Template] = {}
        for template in (*english_templates(), *instructions):
            self._templates.setdefault(_SLOT.sub(r"{\1}", template.text), template)
        for template in lumi_templates():
            mark = _SLOT.sub(
                lambda m: "{name}" if m[1] == "name" else f"{{~{m[1]}}}", template.text
            )
            self._templates[mark] = template

    def category(self, word: str) -> tuple[str, str] | None:
        """The (category, English word) of a content word or name, None for any other word."""
        return self._category.get(word) or self._category.get(word.lower())

    def signature(self, sentence: str) -> tuple[str, list[tuple[str, str]]]:
        """The sentence with its content words replaced by categories, and those words in order."""
        marks, slots = [], []
        for token in sentence.split():
            match = _WORD.match(token)
            found = self.category(match[2]) if match else None
            if match and found:
                marks.append(f"{match[1]}{{{found[0]}}}{match[3]}")
                slots.append(found)
            else:
                marks.append(token)
        return " ".join(marks), slots

    def parse(self, sentence: str) -> Sentence | None:
        """The sentence read back, or None where the grammar does not know it."""
        text, polarity = sentence.strip(), None
        for prefix in ("Yes,", "No,"):
            if text.startswith(prefix + " "):
                text, polarity = text[len(prefix) + 1 :], prefix[:-1]
        for prefix in HEARSAY:
            if text.startswith(prefix + " "):
                text = text[len(prefix) + 1 :]
        text = text[:1].upper() + text[1:]
        mark, slots = self.signature(text)
        template = self._templates.get(mark)
        if template is None:
            return None
        found = dict(zip(re.findall(r"\{(\w+)\}", template.text), slots, strict=True))
        claims = tuple(Claim(found[s][1], a, found[v][1]) for a, s, v in template.claims)
        return Sentence(sentence, template.kind, claims, tuple(slots), template.tag, polarity)
