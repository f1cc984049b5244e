"""The cleaning rules of section 1.2, by hand and by property."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful.errors import ConfigError, MissingExtraError
from heedful.intake.cleaning import (
    Dropped,
    cap_per_user,
    clean,
    detect_language,
    drop_near_duplicates,
    drop_pii,
    first_of_family,
    split_by_user,
)
from heedful.records import Prompt


def prompts_of(*texts: str) -> list[Prompt]:
    return [Prompt(f"p{k}", text) for k, text in enumerate(texts)]


def texts_of(prompts: list[Prompt]) -> list[str]:
    return [prompt.text for prompt in prompts]


def test_near_duplicates_by_hand() -> None:
    few_shot = "great film => good\nawful film => bad\n"
    prompts = prompts_of(
        "Hi",
        few_shot + "a bore =>",
        "Tell me of the river Lume.  Please.",
        few_shot + "a joy =>",
        "tell me\nof the river lume.",
        "Hi there, tell me of the river Lume.",
        "Tell me of the river Lumen.",
        "Hi",
    )
    kept = texts_of(drop_near_duplicates(prompts, min_prefix_chars=30))
    assert kept == [
        "Hi",
        few_shot + "a bore =>",
        "Tell me of the river Lume.  Please.",
        "Hi there, tell me of the river Lume.",
        "Tell me of the river Lumen.",
    ]
    # with a longer prefix the few-shot prompts are two; a repeated prompt is still one
    longer = texts_of(drop_near_duplicates(prompts, min_prefix_chars=60))
    assert few_shot + "a joy =>" in longer and longer.count("Hi") == 1


def test_marks_at_the_ends_of_words_and_case_are_no_difference() -> None:
    texts = [
        "Describe a bakery.",
        "describe a Bakery!",
        "Describe a bakery",
        "Describe, a bakery?!",
        "Describe a bakery 3.5 miles away",
        "Describe a bakery 35 miles away",
        "Hi!",
        "hi",
        "Write a poem about a car.",
        "Write a poem about a carpenter.",  # no beginning: another word
        "Write a poem about a car, please.",
    ]
    first = first_of_family(texts)
    assert first == [0, 0, 0, 0, 4, 5, 6, 6, 8, 9, 8]
    assert texts_of(drop_near_duplicates(prompts_of(*texts))) == [
        texts[k] for k in (0, 4, 5, 6, 8, 9)
    ]


short_texts = st.lists(st.text("ab ", min_size=1, max_size=12), max_size=25)
# long enough that whole prompts are the beginnings of others
long_texts = st.lists(
    st.builds(
        lambda a, space, b: "a" * a + space + "b" * b,
        st.integers(16, 24),
        st.sampled_from(("", " ")),
        st.integers(0, 6),
    ),
    max_size=25,
)


@given(short_texts | long_texts, st.integers(1, 30))
def test_near_duplicates_agree_with_all_pairs(texts: list[str], length: int) -> None:
    """Against the quadratic definition: families are the related prompts, the first one stays."""
    prompts = prompts_of(*texts)
    normal = [" ".join(text.split()) for text in texts]
    family = list(range(len(texts)))

    def related(one: str, other: str) -> bool:
        shared = next((k for k in range(len(one)) if one[k : k + 1] != other[k : k + 1]), len(one))
        rests = (one[shared:], other[shared:])
        is_whole = "" in rests and shared >= 20 and (rests[0] + rests[1]).startswith(" ")
        return one == other or is_whole or shared >= length

    for i in range(len(texts)):
        for j in range(i):
            if related(normal[i], normal[j]) and family[i] != family[j]:
                low, high = sorted((family[i], family[j]))
                family = [low if member == high else member for member in family]
    expected = [texts[i] for i in range(len(texts)) if family[i] == i]
    assert texts_of(drop_near_duplicates(prompts, length)) == expected


@given(short_texts)
def test_nothing_new_is_dropped_the_second_time(texts: list[str]) -> None:
    once = drop_near_duplicates(prompts_of(*texts), 5)
    assert drop_near_duplicates(once, 5) == once


def test_the_cap_keeps_the_first_of_each_user() -> None:
    users = ["a", "a", None, "b", "a", None, "b", None]
    prompts = [replace(p, user=u) for p, u in zip(prompts_of(*"abcdefgh"), users, strict=True)]
    assert texts_of(cap_per_user(prompts, 2)) == ["a", "b", "c", "d", "f", "g", "h"]
    assert texts_of(cap_per_user(prompts, 1)) == ["a", "c", "d", "f", "h"]
    many = [Prompt(str(k), str(k), user="u") for k in range(300)]
    assert len(cap_per_user(many)) == 200


users_and_texts = st.lists(st.tuples(st.none() | st.sampled_from("abcdefg"), st.text(max_size=3)))


@given(users_and_texts, st.floats(0, 0.5), st.floats(0, 0.5), st.integers(0, 99))
def test_no_user_is_in_two_splits(
    rows: list[tuple[str | None, str]], valid: float, test: float, seed: int
) -> None:
    prompts = [Prompt(str(k), text, user=user) for k, (user, text) in enumerate(rows)]
    split = split_by_user(prompts, valid, test, seed)
    assert [replace(p, split="train") for p in split] == prompts
    places: dict[tuple[str, str], set[str]] = {}
    for prompt in split:
        key = ("text", prompt.text) if prompt.user is None else ("user", prompt.user)
        places.setdefault(key, set()).add(prompt.split)
    assert all(len(found) == 1 for found in places.values())
    # who is there beside a user does not matter
    assert split_by_user(prompts[:3], valid, test, seed) == split[:3]


def test_shares_of_users() -> None:
    prompts = [Prompt(str(k), "x", user=f"user {k}") for k in range(5000)]
    counts = Counter(p.split for p in split_by_user(prompts, valid=0.1, test=0.3))
    for split, share in (("train", 0.6), ("valid", 0.1), ("test", 0.3)):
        # four standard errors of a binomial share
        assert abs(counts[split] / 5000 - share) < 4 * (share * (1 - share) / 5000) ** 0.5
    assert split_by_user(prompts, 0.1, 0.3, seed=1) != split_by_user(prompts, 0.1, 0.3, seed=2)
    with pytest.raises(ConfigError, match=r"valid = 0.6 and test = 0.5"):
        split_by_user(prompts, 0.6, 0.5)


def test_personal_data_is_dropped_from_the_training_split_only() -> None:
    mail = "Write to ann@example.com."
    prompts = [Prompt("1", mail), Prompt("2", "Hi"), Prompt("3", mail, split="test")]
    assert [p.id for p in drop_pii(prompts)] == ["2", "3"]
    assert [p.id for p in drop_pii(prompts, split=None)] == ["2"]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Write a story about a wise frog that lives in a pond.", "en"),
        ("Schreibe eine Geschichte über einen weisen Frosch.", "de"),
        ("Escribe un cuento sobre una rana sabia que vive en un estanque.", "es"),
        ("请写一个关于青蛙的故事", "zh"),
        ("ok", None),
        ("John Smith", None),
        ("12 + 5 = ?", None),
        ("", None),
    ],
)
def test_language(text: str, language: str | None) -> None:
    assert detect_language(text) == language


SHORT_ENGLISH = """Tell me a joke|What is love?|Write a poem|Name three fruits|Fix this code
How are you?|Hello there|Explain gravity|Summarize this|List five names|Best pizza recipe?
Is tea healthy?|Draft an email|Bake a cake|Help me plan a trip|Describe a bakery.|good morning
How do I get to Juneau, Alaska?|Translate to French|write me a song"""


def test_short_english_is_english_or_unknown() -> None:
    """Pidgin, Hausa or Romanian is likelier for some of them, by too little to say so."""
    texts = [text for line in SHORT_ENGLISH.splitlines() for text in line.split("|")]
    found = {text: detect_language(text) for text in texts}
    assert len(found) == 20 and set(found.values()) == {"en", None}
    assert found["What is love?"] == found["How are you?"] == "en"
    assert found["Bake a cake"] is None
    for text, language in (("Wie geht es dir?", "de"), ("Wey dem dey go?", "pcm")):
        assert detect_language(text) == language


def test_language_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid", None)
    with pytest.raises(MissingExtraError, match=r"heedful\[intake\]"):
        detect_language("Hello there.")


def test_clean_counts_what_each_rule_drops() -> None:
    prompts = [
        Prompt("0", "  \n", user="a"),
        Prompt("1", "Write a story about a wise frog.", user="a"),
        Prompt("2", "Write a story about a wise frog. Thanks!", user="b"),
        Prompt("3", "What is the capital of the northern kingdom?", user="a"),
        Prompt("4", "List five ideas for a rainy afternoon at home.", user="a"),
        Prompt("5", "Schreibe eine Geschichte über einen weisen Frosch.", user="b"),
        Prompt("6", "Write a letter to ann@example.com about the rent.", user="b"),
        Prompt("7", "Quel est le plus long fleuve du royaume ?", user="b", language="en"),
    ]
    kept, report = clean(prompts, max_per_user=2, valid=0.0, test=0.0, languages=("en",))
    assert [(p.id, p.language) for p in kept] == [("1", "en"), ("3", "en"), ("7", "en")]
    assert report.dropped == {
        "empty": 1,
        "near-duplicate": 1,
        "language": 1,
        "over the user's cap": 1,
        "personal data": 1,
    }
    assert (report.num_in, report.num_kept) == (8, 3)
    assert report.num_by_split == {"train": 3, "valid": 0, "test": 0}
    assert report.drops == (
        Dropped(0, "empty"),
        Dropped(2, "near-duplicate", like=1),
        Dropped(4, "over the user's cap"),
        Dropped(5, "language", "de"),
        Dropped(6, "personal data", "email"),
    )
    lines = [line.split() for line in str(report).splitlines()]
    assert lines[0][-1] == "8" and ["kept", "3"] in lines and ["train", "3"] in lines


def test_the_prompts_of_a_user_follow_the_one_whose_split_is_given() -> None:
    texts = ["Rain?", "Snow?", "Hail?", "Wind?", "Fog?", "Sun?"]
    users = ["ann", "ann", "ben", "ben", None, "ann"]
    prompts = [replace(p, user=u) for p, u in zip(prompts_of(*texts), users, strict=True)]
    shares = {"valid": 0.0, "test": 0.0}  # all in training, were it not for what is given
    kept, report = clean(prompts, splits={"p1": "test", "p4": "valid"}, **shares)
    assert [p.split for p in kept] == ["test", "test", "train", "train", "valid", "test"]
    assert report.num_astray == 0
    # two splits for one user: each of the two prompts stays, the third goes with the first of them
    kept, report = clean(prompts, splits={"p1": "test", "p5": "valid"}, **shares)
    assert [p.split for p in kept] == ["test", "test", "train", "train", "train", "valid"]
    assert report.num_astray == 1
    # over the cap the prompt is gone, but its user's split is known from it
    kept, report = clean(prompts, splits={"p5": "test"}, max_per_user=2, **shares)
    assert [p.split for p in kept] == ["test", "test", "train", "train", "train"]
    # unless a prompt that is kept says otherwise
    kept, report = clean([prompts[1], *prompts], splits={"p1": "valid", "p0": "test"}, **shares)
    assert [(p.id, p.split) for p in kept[:2]] == [("p1", "valid"), ("p0", "test")]
    prompts[0] = replace(prompts[0], text="")
    kept, report = clean(prompts, splits={"p0": "test", "p1": "valid"}, **shares)
    assert [p.split for p in kept if p.user == "ann"] == ["valid", "valid"]
    assert report.num_astray == 0


@settings(max_examples=40)
@given(users_and_texts)
def test_clean_accounts_for_every_prompt(rows: list[tuple[str | None, str]]) -> None:
    prompts = [Prompt(str(k), text, user=user) for k, (user, text) in enumerate(rows)]
    kept, report = clean(prompts, max_per_user=3)
    assert len(kept) == report.num_kept == sum(report.num_by_split.values())
    order = [int(p.id) for p in kept]
    assert order == sorted(order)
    places = [drop.place for drop in report.drops]
    assert sorted(order + places) == list(range(len(rows)))
    assert Counter(drop.rule for drop in report.drops) == Counter(report.dropped)
