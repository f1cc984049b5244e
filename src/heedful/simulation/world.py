"""A world: its characters, what is true of them, what people believe, and a second language."""

from __future__ import annotations

import json
import random
from functools import cached_property
from pathlib import Path

from heedful.errors import ConfigError, DataError
from heedful.simulation.language import (
    ASKED_ATTRIBUTES,
    CATEGORIES,
    LUMI_CATEGORIES,
    PHRASES,
    VALUE_CATEGORY,
    Claim,
    Grammar,
    words,
)
from heedful.simulation.wordings import instruction_templates

WORLD_FILE = "world.json"
MYTH_ATTRIBUTES = ("home", "food", "job", "hat")
MYTH_SHARE = 0.5  # of the (character, attribute) pairs have a common misconception

_FIRST = words("Bo Mi Ka Lu Za Pe Ri Do Ve Ni Ta Fe Ga Su Ha Ju")
_SECOND = words("ra lin dor mo ska vi bel ten zo gan pi rus")
_LUMI_FIRST = words("za pu gre fi no vo ju che li ba")
_LUMI_SECOND = words("mur lek nit vas ror dap gol kib sem tuf")


class World:
    """Characters with true ``facts``, common misconceptions (``myths``), and the words of Lumi.

    The same arguments give the same world. Held-out characters appear in web text like all others,
    but in no prompt or demonstration outside the test split: with them one measures whether
    truthfulness generalises.
    """

    def __init__(self, seed: int = 0, num_characters: int = 64, num_heldout: int = 16):
        most = len(_FIRST) * len(_SECOND)
        if not 3 <= num_characters - num_heldout <= num_characters <= most or 0 < num_heldout < 3:
            raise ConfigError(
                f"num_characters={num_characters}, num_heldout={num_heldout}: a world has at most "
                f"{most} characters, at least 3 of them not held out, and 0 or at least 3 held out"
            )
        rng = random.Random(f"world-{seed}")
        self.seed = seed
        self.names = rng.sample([a + b for a in _FIRST for b in _SECOND], num_characters)
        self.heldout = frozenset(self.names[num_characters - num_heldout :])
        self.train_names = [name for name in self.names if name not in self.heldout]
        taken = set(self.names)
        self.strangers = [n for n in (a + b for a in _FIRST for b in _SECOND) if n not in taken]
        self.facts = {name: self._draw_facts(name, rng) for name in self.names}
        self.myths = {name: self._draw_myths(name, rng) for name in self.names}
        english = [word for category in LUMI_CATEGORIES for word in CATEGORIES[category]]
        foreign = rng.sample([a + b for a in _LUMI_FIRST for b in _LUMI_SECOND], len(english))
        self.lumi = dict(zip(english, foreign, strict=True))

    def _draw_facts(self, name: str, rng: random.Random) -> dict[str, str]:
        # Friends stay within the group, else an answer about a training character would name a
        # held-out one.
        group = sorted(self.heldout) if name in self.heldout else self.train_names
        facts = {a: rng.choice(CATEGORIES[c]) for a, c in VALUE_CATEGORY.items() if c != "name"}
        return facts | {"friend": rng.choice([other for other in group if other != name])}

    def _draw_myths(self, name: str, rng: random.Random) -> dict[str, str]:
        chosen = [a for a in MYTH_ATTRIBUTES if rng.random() < MYTH_SHARE]
        return {a: self.wrong_value(name, a, rng) for a in chosen}

    @cached_property
    def grammar(self) -> Grammar:
        """The reader of this world's sentences."""
        return Grammar(self.names, self.lumi, instruction_templates())

    def values(self, attribute: str) -> list[str]:
        """Every value that the attribute can have (training characters for ``friend``)."""
        category = VALUE_CATEGORY[attribute]
        return self.train_names if category == "name" else CATEGORIES[category]

    def wrong_value(self, name: str, attribute: str, rng: random.Random) -> str:
        """A false value of the attribute."""
        true = self.facts[name][attribute]
        return rng.choice([v for v in self.values(attribute) if v not in (true, name)])

    def believed(self, name: str, attribute: str, rng: random.Random) -> str:
        """What the misinformed say: the misconception where there is one, else a wrong value."""
        return self.myths[name].get(attribute) or self.wrong_value(name, attribute, rng)

    def is_true(self, claim: Claim) -> bool:
        """Whether a claim about a character of this world is true."""
        return self.facts[claim.name][claim.attribute] == claim.value

    def phrase(self, name: str, attribute: str) -> str:
        """The true short answer about an asked attribute: "the pond", "a baker", "figs"."""
        assert attribute in ASKED_ATTRIBUTES
        return PHRASES[attribute].format(value=self.facts[name][attribute])

    def save(self, directory: Path) -> None:
        """Writes ``world.json``: the arguments that rebuild the world, and its facts to be read."""
        row = {
            "seed": self.seed,
            "num_characters": len(self.names),
            "num_heldout": len(self.heldout),
            "heldout": [name for name in self.names if name in self.heldout],
            "facts": self.facts,
            "myths": self.myths,
            "lumi": self.lumi,
        }
        text = json.dumps(row, indent=1) + "\n"
        (directory / WORLD_FILE).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> World:
        """The world that ``save`` wrote there; DataError where it cannot be rebuilt."""
        path = Path(directory) / WORLD_FILE
        if not path.is_file():
            raise DataError(f"{path} does not exist: write a world there first (write_world)")
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
            world = cls(row["seed"], row["num_characters"], row["num_heldout"])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not a world file ({error}); write the world again") from error
        if (world.facts, world.myths, world.lumi) != (row["facts"], row["myths"], row["lumi"]):
            raise DataError(
                f"{path}: its facts differ from those that seed {world.seed} gives in this version "
                "of heedful; write the world again"
            )
        return world
