"""Prompts to train on: near-duplicates out, heavy users capped, split by user, no personal data.

Section 1.2 of the paper: prompts that "share a long common prefix" are dropped, 200 prompts a user
at most, train, validation and test split by user, and all training prompts filtered for personal
data. Every function takes prompts in the order they came in and keeps that order.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b

from heedful.errors import ConfigError, MissingExtraError
from heedful.intake.pii import find_pii
from heedful.records import Prompt, Split

# The paper does not say how long is long: about two lines, more than common openings have.
MIN_PREFIX_CHARS = 100
# Under this a whole prompt that begins another one is no sign of copying ("Hi", "Write a story").
MIN_WHOLE_CHARS = 20
MAX_PER_USER = 200
# Nats by which the likeliest language has to lead; code and names alone stay under it.
_MIN_LANGUAGE_LEAD = 3.0
# And by which it has to lead English, as nearly all prompts are English. Of 3,000 first lines and
# beginnings of English prompts, 0.3 % were taken for another language without this, none with it.
_MIN_LEAD_OVER_ENGLISH = 8.0
# Marks at the end of a word, Chinese ones too; within one they mean something ("3.5", "a:b").
_END_MARKS = re.compile(r"[.,!?;:\u2026\u3002\uff01\uff1f\uff0c\u3001\uff1b\uff1a]+(?=\s|$)")


def drop_near_duplicates(
    prompts: Iterable[Prompt], min_prefix_chars: int = MIN_PREFIX_CHARS
) -> list[Prompt]:
    """The prompts without those that repeat an earlier one up to its ending."""
    prompts = list(prompts)
    first = first_of_family([prompt.text for prompt in prompts], min_prefix_chars)
    return [prompt for place, prompt in enumerate(prompts) if first[place] == place]


def first_of_family(texts: Sequence[str], min_prefix_chars: int = MIN_PREFIX_CHARS) -> list[int]:
    """For each text, the place of the first one that is the same up to its ending.

    Texts are near-duplicates if they share their first ``min_prefix_chars`` characters, or if one
    of them (of 20 characters or more) is the other's beginning, up to the end of a word. Case, the
    amount of white space and the marks at the ends of words do not count. O(n log n): sorted,
    families stand together.
    """
    starts = [_normal(text)[:min_prefix_chars] for text in texts]
    families: list[list[int]] = []
    head: str | None = None
    for place in sorted(range(len(texts)), key=lambda k: (starts[k], k)):
        # All that go on after the head's last word come right after it: a space sorts first.
        same = starts[place] == head
        begins = head is not None and len(head) >= min(MIN_WHOLE_CHARS, min_prefix_chars)
        if same or (begins and starts[place].startswith(f"{head} ")):
            families[-1].append(place)
        else:
            head = starts[place]
            families.append([place])
    first = list(range(len(texts)))
    for family in families:
        for place in family:
            first[place] = min(family)
    return first


def cap_per_user(prompts: Iterable[Prompt], max_per_user: int = MAX_PER_USER) -> list[Prompt]:
    """The first prompts of every user up to the cap; prompts without a user are not counted."""
    prompts = list(prompts)
    under = _under_cap(prompts, max_per_user)
    return [prompt for prompt, stays in zip(prompts, under, strict=True) if stays]


def _under_cap(prompts: Iterable[Prompt], max_per_user: int) -> list[bool]:
    counts: Counter[str] = Counter()
    under = []
    for prompt in prompts:
        if prompt.user is not None:
            counts[prompt.user] += 1
        under.append(prompt.user is None or counts[prompt.user] <= max_per_user)
    return under


def split_by_user(
    prompts: Iterable[Prompt],
    valid: float,
    test: float,
    seed: int = 0,
    of_user: Mapping[str, Split] | None = None,
) -> list[Prompt]:
    """The prompts with a split each: the shares of users (not of prompts) that are held out.

    All prompts of a user are in one split, so that nothing is learned about a user of the
    validation. A prompt without a user goes by its text. The split of a user is the one given in
    ``of_user``, else it depends on the seed and the name alone: users who come later change nothing
    for those before.
    """
    if valid < 0 or test < 0 or valid + test > 1:
        raise ConfigError(
            f"the held-out shares are valid = {valid} and test = {test}: both have to be at least "
            "0, and together at most 1"
        )
    known = of_user or {}

    def split_of(prompt: Prompt) -> Split:
        if prompt.user is not None and prompt.user in known:
            return known[prompt.user]
        return _split(prompt, valid, test, seed)

    return [replace(prompt, split=split_of(prompt)) for prompt in prompts]


def _splits_of_users(prompts: Iterable[Prompt], splits: Mapping[str, Split]) -> dict[str, Split]:
    """The split of every user with prompts whose ids are in ``splits``: that of the first one."""
    found: dict[str, Split] = {}
    for prompt in prompts:
        if prompt.user is not None and prompt.id in splits:
            found.setdefault(prompt.user, splits[prompt.id])
    return found


def _split(prompt: Prompt, valid: float, test: float, seed: int) -> Split:
    name = ("user", prompt.user) if prompt.user is not None else ("text", prompt.text)
    digest = blake2b(repr((seed, *name)).encode(), digest_size=8).digest()
    place = int.from_bytes(digest) / 2**64
    if place < test:
        return "test"
    return "valid" if place < test + valid else "train"


def drop_pii(prompts: Iterable[Prompt], split: Split | None = "train") -> list[Prompt]:
    """The prompts without those of this split (None: of every split) that hold personal data."""
    return [p for p in prompts if (split is not None and p.split != split) or not find_pii(p.text)]


def detect_language(text: str) -> str | None:
    """The ISO 639 code of a text's language, or None where the text does not show it.

    By py3langid, the maintained form of the langid.py that the paper used.
    """
    try:
        from py3langid import rank
    except ImportError as error:
        raise MissingExtraError(
            "telling languages needs py3langid: pip install 'heedful[intake]'"
        ) from error
    if not any(character.isalpha() for character in text):
        return None
    ranked = rank(text)
    (best, score), (_, second) = ranked[:2]
    leads = score - second >= _MIN_LANGUAGE_LEAD
    leads &= best == "en" or score - dict(ranked)["en"] >= _MIN_LEAD_OVER_ENGLISH
    return best if leads else None


@dataclass(frozen=True, slots=True)
class Dropped:
    """One prompt that a rule dropped: its place among those that came in, the rule, and what in it.

    ``like`` is the place of the prompt that stays in its place, where it repeats one.
    """

    place: int
    rule: str
    what: str | None = None
    like: int | None = None


@dataclass(frozen=True)
class CleaningReport:
    """How many prompts came in, how many each rule dropped, and where the rest went."""

    num_in: int
    dropped: dict[str, int] = field(default_factory=dict)
    num_by_split: dict[str, int] = field(default_factory=dict)
    num_astray: int = 0  # prompts in another split than the first of their user
    drops: tuple[Dropped, ...] = ()

    @property
    def num_kept(self) -> int:
        """Prompts that are left."""
        return self.num_in - sum(self.dropped.values())

    def __str__(self) -> str:
        rows = [("prompts in", self.num_in)]
        rows += [(f"dropped: {reason}", -number) for reason, number in self.dropped.items()]
        rows += [("kept", self.num_kept)]
        rows += [(f"  {split}", number) for split, number in self.num_by_split.items()]
        return "\n".join(f"{name:<28}{number:>10,}" for name, number in rows)


def clean(
    prompts: Iterable[Prompt],
    *,
    min_prefix_chars: int = MIN_PREFIX_CHARS,
    max_per_user: int = MAX_PER_USER,
    valid: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    languages: Collection[str] | None = None,
    splits: Mapping[str, Split] | None = None,
) -> tuple[list[Prompt], CleaningReport]:
    """The prompts that the paper's rules keep, with their splits, and what each rule dropped.

    With ``languages`` every prompt gets its detected language (one that it has is kept), and those
    in other languages are dropped; prompts whose language cannot be told stay. A prompt whose id is
    in ``splits`` is in that split, and so are the other prompts of its user; users without such a
    prompt are split as ``split_by_user`` does. Where a user's prompts are given several splits, the
    rest are in the first one, and the report counts those that are astray.
    """
    given, splits = list(prompts), splits or {}
    left = _Left(given)
    left.keep("empty", [bool(prompt.text.strip()) for prompt in given])
    first = first_of_family([prompt.text for prompt in left.prompts], min_prefix_chars)
    left.keep(
        "near-duplicate",
        [first[k] == k for k in range(len(first))],
        like=[left.places[k] for k in first],
    )
    if languages is not None:
        left.prompts = [
            replace(p, language=p.language or detect_language(p.text)) for p in left.prompts
        ]
        told = [prompt.language for prompt in left.prompts]
        left.keep("language", [tongue is None or tongue in languages for tongue in told], told)
    left.keep("over the user's cap", _under_cap(left.prompts, max_per_user))
    # a prompt that is kept says more of its user's split than one that was dropped
    of_user = _splits_of_users([*left.prompts, *given], splits)
    split = split_by_user(left.prompts, valid, test, seed, of_user)
    left.prompts = [replace(p, split=splits.get(p.id, p.split)) for p in split]
    kinds = [_kinds_of_pii(p.text) if p.split == "train" else None for p in left.prompts]
    left.keep("personal data", [kind is None for kind in kinds], kinds)
    return left.prompts, left.report(len(given))


class _Left:
    """The prompts that are left after each rule, with the places that they came in at."""

    def __init__(self, prompts: Sequence[Prompt]):
        self.prompts = list(prompts)
        self.places = list(range(len(self.prompts)))
        self.counts: dict[str, int] = {}
        self.drops: list[Dropped] = []

    def keep(
        self,
        rule: str,
        wanted: Sequence[bool],
        what: Sequence[str | None] | None = None,
        like: Sequence[int] | None = None,
    ) -> None:
        """Drops the prompts that are not wanted, and notes each of them."""
        self.drops += [
            Dropped(place, rule, what[k] if what else None, like[k] if like else None)
            for k, place in enumerate(self.places)
            if not wanted[k]
        ]
        self.counts[rule] = wanted.count(False)
        self.prompts = [p for p, stays in zip(self.prompts, wanted, strict=True) if stays]
        self.places = [k for k, stays in zip(self.places, wanted, strict=True) if stays]

    def report(self, num_in: int) -> CleaningReport:
        """What was dropped and what is left."""
        num_by_split = {split: sum(p.split == split for p in self.prompts) for split in _SPLITS}
        num_astray, drops = _count_astray(self.prompts), sorted(self.drops, key=lambda d: d.place)
        return CleaningReport(num_in, self.counts, num_by_split, num_astray, tuple(drops))


def _kinds_of_pii(text: str) -> str | None:
    """The kinds of personal data in a text, none of it itself; None where there is none."""
    return ", ".join(dict.fromkeys(kind for kind, _, _ in find_pii(text))) or None


_SPLITS: tuple[Split, ...] = ("train", "valid", "test")


def _count_astray(prompts: Iterable[Prompt]) -> int:
    """Prompts in another split than the first of their user."""
    first: dict[str, Split] = {}
    return sum(p.user is not None and first.setdefault(p.user, p.split) != p.split for p in prompts)


def _normal(text: str) -> str:
    return " ".join(_END_MARKS.sub("", text).split()).casefold()
