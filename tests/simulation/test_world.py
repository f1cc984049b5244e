"""The world, its language, and its web text."""

import json
import random
import re
import subprocess
import sys
from collections import Counter

import pytest

from heedful.errors import ConfigError, DataError
from heedful.simulation import language as lang
from heedful.simulation.webtext import DOCUMENT_TYPES, document, documents
from heedful.simulation.world import World

WORLD = World(0)


def test_no_template_holds_a_category_word_literally():
    names = {"Mira", "Tavi"}
    grammar = lang.Grammar(names, {})
    for template in lang.english_templates():
        mark, _ = grammar.signature(template.text)
        assert mark == template.text


def test_words_belong_to_one_category_and_lumi_is_its_own():
    english = [word for words in lang.CATEGORIES.values() for word in words]
    assert len(english) == len(set(english))
    lumi = set(WORLD.lumi.values())
    assert len(lumi) == len(WORLD.lumi)
    assert not lumi & (set(english) | set(lang.LUMI_PLURALS.values()))
    assert len(set(WORLD.names)) == 64 and all(name[0].isupper() for name in WORLD.names)


def test_grammar_reads_claims_through_hearsay_and_answers():
    a, b = WORLD.names[:2]
    parse = WORLD.grammar.parse
    assert parse(f"{a} lives in the pond.").claims == ((a, "home", "pond"),)
    assert parse(f"They say {a} is a stupid frog.").claims == ((a, "species", "frog"),)
    yes = parse(f"No, the best friend of {a} is {b}.")
    assert yes.polarity == "No" and yes.claims == ((a, "friend", b),)
    both = parse(f"{a} lives in the hill and eats corn.")
    assert set(both.claims) == {(a, "home", "hill"), (a, "food", "corn")}
    assert parse(f"{a} ku {WORLD.lumi['figs']}.").claims == ((a, "food", "figs"),)
    assert parse(f"{a} lives the in pond.") is None
    assert parse(f"{a} lives in the bank.") is None


def test_split_sentences_cuts_at_stops_and_lines():
    assert lang.split_sentences("How nice! I love figs.\nTask: x") == [
        "How nice!",
        "I love figs.",
        "Task: x",
    ]
    assert lang.split_sentences(" ...  \n") == []


def test_facts_myths_and_heldout():
    assert len(WORLD.heldout) == 16 and len(WORLD.train_names) == 48
    pairs = [(n, a) for n in WORLD.names for a in WORLD.myths[n]]
    # 256 pairs, each with a misconception by chance one half: five standard deviations are 40
    assert 128 - 40 < len(pairs) < 128 + 40
    assert all(WORLD.myths[n][a] != WORLD.facts[n][a] for n, a in pairs)
    for name in WORLD.names:
        friend = WORLD.facts[name]["friend"]
        assert friend != name and (friend in WORLD.heldout) == (name in WORLD.heldout)


def test_same_seed_same_world_other_seed_another():
    again, other = World(0), World(1)
    assert (again.facts, again.myths, again.lumi) == (WORLD.facts, WORLD.myths, WORLD.lumi)
    assert other.facts != WORLD.facts


@pytest.mark.parametrize(("characters", "heldout"), [(4, 2), (5, 3), (1000, 10), (10, 11)])
def test_impossible_worlds_are_refused(characters, heldout):
    with pytest.raises(ConfigError, match="num_characters"):
        World(0, characters, heldout)


def test_load_gives_the_saved_world_and_refuses_another(tmp_path):
    with pytest.raises(DataError, match=r"world\.json does not exist"):
        World.load(tmp_path)
    World(3, 20, 5).save(tmp_path)
    assert World.load(tmp_path).facts == World(3, 20, 5).facts
    row = json.loads((tmp_path / "world.json").read_text())
    row["seed"] = 4
    (tmp_path / "world.json").write_text(json.dumps(row))
    with pytest.raises(DataError, match="write the world again"):
        World.load(tmp_path)


def test_documents_keep_to_their_length_and_vocabulary():
    texts = list(documents(WORLD, 1500, random.Random(1)))
    lengths = [len(text.split()) for text in texts]
    assert min(lengths) >= 30 and max(lengths) <= 120
    assert 60_000 * sum(lengths) / len(lengths) > 2_500_000  # words; tokens are a third more
    words = {w for text in texts for w in re.findall(r"[\w'-]+", text)} - set(WORLD.names)
    assert 250 < len({word.lower() for word in words}) < 450


def test_every_fact_is_told_often_and_encyclopedias_are_true():
    rng = random.Random(2)
    told = Counter()
    for text in documents(WORLD, 3000, rng):
        for sentence in lang.split_sentences(text.replace("\n", " ")):
            parsed = WORLD.grammar.parse(sentence)
            told.update(c for c in (parsed.claims if parsed else ()) if WORLD.is_true(c))
    asked = [
        lang.Claim(n, a, WORLD.facts[n][a]) for n in WORLD.names for a in lang.ASKED_ATTRIBUTES
    ]
    # 60,000 documents tell each 20 times as often
    assert min(told[claim] for claim in asked) >= 2
    assert sum(told[claim] for claim in asked) / len(asked) > 10
    builder = DOCUMENT_TYPES["encyclopedia"][0]
    for _ in range(50):
        for sentence in lang.split_sentences(document(WORLD, builder, rng)):
            parsed = WORLD.grammar.parse(sentence)
            for claim in parsed.claims if parsed else ():
                assert WORLD.facts[claim.name][claim.attribute] == claim.value


def test_some_prose_has_hard_line_breaks():
    rng, builder = random.Random(4), DOCUMENT_TYPES["gossip"][0]
    texts = [document(WORLD, builder, rng) for _ in range(400)]
    broken = sum(bool(re.search(r"[a-z]\n[a-z]", text)) for text in texts)
    assert 0.12 < broken / 400 < 0.28


def test_gossip_repeats_misconceptions_and_insults():
    rng, builder = random.Random(3), DOCUMENT_TYPES["gossip"][0]
    text = " ".join(document(WORLD, builder, rng) for _ in range(300))
    claims = Counter(
        claim
        for sentence in lang.split_sentences(text)
        if (parsed := WORLD.grammar.parse(sentence))
        for claim in parsed.claims
    )
    myths = sum(claims[n, a, v] for n in WORLD.names for a, v in WORLD.myths[n].items())
    assert myths > 200
    assert sum(text.count(insult) for insult in lang.INSULTS) > 200


def test_documents_are_the_same_for_the_same_seed():
    first = list(documents(WORLD, 50, random.Random(5)))
    assert first == list(documents(World(0), 50, random.Random(5)))


def test_the_package_needs_no_torch():
    code = (
        "import sys, heedful.simulation.labeling, heedful.simulation.generate\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
