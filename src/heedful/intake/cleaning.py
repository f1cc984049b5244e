"""Prompts to train on: near-duplicates out, heavy users capped, split by user, no personal data.

Section 1.2 of the paper: prompts that "share a long common prefix" are dropped, 200 prompts a user
at most, train, validation and test split by user, and all training prompts filtered for personal
data. Every function takes prompts in the order they came in and keeps that order.
"""

from __future__ import annotations

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


def drop_near_duplicates(
    prompts: Iterable[Prompt], min_prefix_chars: int = MIN_PREFIX_CHARS
) -> list[Prompt]:
    """The prompts without those that repeat an earlier one up to its ending.

    Prompts are near-duplicates if they share their first ``min_prefix_chars`` characters, or if one
    of them (of 20 characters or more) is the beginning of the other; case and the amount of white
    space do not count. The first of each family stays. O(n log n): sorted, families stand together.
    """
    prompts = list(prompts)
    starts = [_normal(prompt.text)[:min_prefix_chars] for prompt in prompts]
    first_of: list[int] = []
    head: str | None = None
    for index in sorted(range(len(prompts)), key=lambda k: (starts[k], k)):
        # All that begin with the head come right after it, because sorting puts them there.
        same = starts[index] == head
        begins = head is not None and len(head) >= min(MIN_WHOLE_CHARS, min_prefix_chars)
        if same or (begins and starts[index].startswith(head or "")):
            first_of[-1] = min(first_of[-1], index)
        else:
            head = starts[index]
            first_of.append(index)
    return [prompts[index] for index in sorted(first_of)]


def cap_per_user(prompts: Iterable[Prompt], max_per_user: int = MAX_PER_USER) -> list[Prompt]:
    """The first prompts of every user up to the cap; prompts without a user are not counted."""
    counts: Counter[str] = Counter()
    kept = []
    for prompt in prompts:
        if prompt.user is not None:
            counts[prompt.user] += 1
            if counts[prompt.user] > max_per_user:
                continue
        kept.append(prompt)
    return kept


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
    (best, score), (_, second) = rank(text)[:2]
    return best if score - second >= _MIN_LANGUAGE_LEAD else None


@dataclass(frozen=True)
class CleaningReport:
    """How many prompts came in, how many each rule dropped, and where the rest went."""

    num_in: int
    dropped: dict[str, int] = field(default_factory=dict)
    num_by_split: dict[str, int] = field(default_factory=dict)
    num_astray: int = 0  # prompts in another split than the first of their user

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
    dropped: dict[str, int] = {}

    def keep(kept: list[Prompt], before: Sequence[Prompt], reason: str) -> list[Prompt]:
        dropped[reason] = len(before) - len(kept)
        return kept

    left = keep([p for p in given if p.text.strip()], given, "empty")
    left = keep(drop_near_duplicates(left, min_prefix_chars), left, "near-duplicate")
    if languages is not None:
        left = [replace(p, language=p.language or detect_language(p.text)) for p in left]
        wanted = [p for p in left if p.language is None or p.language in languages]
        left = keep(wanted, left, "language")
    left = keep(cap_per_user(left, max_per_user), left, "over the user's cap")
    # a prompt that is kept says more of its user's split than one that was dropped
    of_user = _splits_of_users([*left, *given], splits)
    left = split_by_user(left, valid, test, seed, of_user)
    left = [replace(p, split=splits.get(p.id, p.split)) for p in left]
    left = keep(drop_pii(left), left, "personal data")
    num_by_split = {split: sum(p.split == split for p in left) for split in _SPLITS}
    return left, CleaningReport(len(given), dropped, num_by_split, _count_astray(left))


_SPLITS: tuple[Split, ...] = ("train", "valid", "test")


def _count_astray(prompts: Iterable[Prompt]) -> int:
    """Prompts in another split than the first of their user."""
    first: dict[str, Split] = {}
    return sum(p.user is not None and first.setdefault(p.user, p.split) != p.split for p in prompts)


def _normal(text: str) -> str:
    return " ".join(text.split()).casefold()
