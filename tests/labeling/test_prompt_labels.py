"""Labels on prompts: counted for researchers, in snapshots, and drawn."""

from __future__ import annotations

import json
import time

from heedful.labeling.figures import FigureCache
from heedful.records import METADATA_FIELDS, Prompt, Rating
from heedful.store import erasure, people, pools, projects, prompt_summary, tasks
from heedful.store.answers import DemonstrationAnswer, PromptLabels, RankingAnswer

FIRST = "/admin/projects/1"
NO = dict.fromkeys(METADATA_FIELDS, False)


def say(house, labeler, use_case=None, kind="demonstration", project_id=1, **flags):
    """The assignment of an answer to the next task, which says something of its prompt too."""
    now = house.clock.now

    def do(c):
        work = tasks.claim(c, project_id, labeler, kind, now=now)
        said = PromptLabels(use_case, flags)
        answer = DemonstrationAnswer("Some words.", said)
        if kind == "ranking":
            answer = RankingAnswer((1, 2), (Rating(4, NO),) * 2, said)
        tasks.submit(c, work.id, labeler, answer, key=f"{work.id}-{now}", now=now)
        return work.id

    return house.database.write(do)


def furnish(house):
    """Four prompts of which two have the use cases of two labelers, alike on one."""
    rows = "".join(f'{{"id": "p{n}", "text": "Prompt {n}"}}\n' for n in range(2))
    ada = house.browser("ada")
    ada.submit(ada.get(FIRST), f"{FIRST}/settings", overlap_percent="100", overlap_n="2")
    house.load(rows.encode(), what="prompts")
    lea, leo = house.person("lea"), house.person("leo")
    say(house, lea, "chat", ambiguous=True)
    say(house, lea, "rewrite", ambiguous=True, closed_domain=False)
    for use_case in ("chat", "chat"):  # the other labeler's: alike on one of the two
        say(house, leo, use_case)
    return ada


def test_the_summary_counts_answers_and_shared_use_cases(house):
    ada = furnish(house)
    with house.database.read() as connection:
        found = prompt_summary.summary(connection, 1)
        empty = prompt_summary.summary(connection, 99)
    assert (found.num_labels, found.num_prompts) == (4, 2)
    assert found.use_cases == {"chat": 3, "rewrite": 1}
    assert found.flags == (("ambiguous", 2, 0), ("closed_domain", 0, 1))
    assert (found.num_shared, found.num_alike) == (2, 1)
    assert (empty.num_labels, empty.num_prompts, empty.num_shared) == (0, 0, 0)
    text = " ".join(ada.get(f"{FIRST}/prompts").text.split())
    assert "4 answers label 2 prompts" in text and "1 have the same one of all (50.0%)" in text
    assert "chat375.0%" in text.replace(" ", "") and "answers that name it. chat: 3." in text
    assert "yeses. Ambiguous: 2." in text


def test_of_a_labeler_who_labels_a_prompt_twice_the_newest_use_case_counts(house):
    house.load(b'{"id": "p0", "text": "Prompt 0"}\n', what="prompts")
    house.load(
        b'{"prompt_id": "p0", "prompt": "Prompt 0", "completions":'
        b' [{"id": "a", "text": "One."}, {"id": "b", "text": "Two."}]}\n'
    )
    ada, lea, leo = house.browser("ada"), house.person("lea"), house.person("leo")
    ada.submit(ada.get(FIRST), f"{FIRST}/settings", overlap_percent="100", overlap_n="2")

    def counts():
        with house.database.read() as connection:
            found = prompt_summary.summary(connection, 1)
        return found.num_labels, found.num_prompts, found.num_shared, found.num_alike

    say(house, lea, "chat")
    say(house, lea, "rewrite", kind="ranking")
    assert counts() == (2, 1, 0, 0)  # one person, however often
    say(house, leo, "rewrite")
    assert counts() == (3, 1, 1, 1)
    say(house, leo, ambiguous=True, kind="ranking")  # names no other
    assert counts() == (4, 1, 1, 1)


def test_other_projects_change_nothing(house):
    furnish(house)
    now = house.clock.now
    settings = projects.Settings(overlap_fraction=0.0, gold_fraction=0.0, drift_fraction=0.0)

    def version(project_id):
        with house.database.read() as connection:
            return prompt_summary.version(connection, project_id)

    def another(c):
        made = projects.create(
            c, "second", seed="s", settings=settings, guideline="Be kind.", actor=1, now=now
        )
        prompt = Prompt(id="p0", text="Prompt 0")
        numbers = projects.add_prompts(c, made.id, [prompt], actor=1, now=now)
        pools.add_demonstration_task(c, made, numbers["p0"])
        people.join(c, made.id, 2, "train", actor=1, now=now)
        return made.id

    before = version(1)
    assert before[0] == 4  # the answers of ``furnish``
    second = house.database.write(another)
    assert version(second)[0] == 0
    house.clock.now += 60.0
    say(house, 2, "chat", project_id=second)
    assert version(second)[0] == 1 and version(1) == before


def test_taking_back_and_erasing_change_the_version(house):
    furnish(house)
    seen = []

    def changed():
        with house.database.read() as connection:
            seen.append(prompt_summary.version(connection, 1))
        return seen[-1] not in seen[:-1]

    assert changed()
    house.load(b'{"id": "p9", "text": "Prompt 9", "user": "u9"}\n', what="prompts")
    house.clock.now += 1.0
    work = say(house, 2, "chat")
    assert changed()
    house.clock.now += 1.0
    house.database.write(lambda c: tasks.undo(c, work, 2, now=house.clock.now))
    with house.database.read() as connection:
        assert prompt_summary.version(connection, 1) == seen[0]  # as it was, and so are the counts
        assert prompt_summary.summary(connection, 1).num_labels == 4
    say(house, 2, "rewrite")
    assert changed()
    house.database.write(
        lambda c: erasure.erase_source_user(c, 1, "u9", actor=1, now=house.clock.now)
    )
    assert changed()


def test_many_labels_are_counted_beside_the_page(house):
    ada = furnish(house)
    house.app.state.prompt_summaries = cache = FigureCache(
        house.database,
        lambda: house.clock.now,
        compute=prompt_summary.summary,
        version_of=prompt_summary.version,
        at_once=0,
    )

    def wait_for_end():
        while cache._under_way:
            time.sleep(0.001)

    assert "being counted" in ada.get(f"{FIRST}/prompts").text
    wait_for_end()
    text = ada.get(f"{FIRST}/prompts").text
    assert "4 answers label 2 prompts" in text and "As of" not in text
    with house.database.read() as connection:
        before = prompt_summary.version(connection, 1)
    house.load(b'{"id": "p9", "text": "Prompt 9"}\n', what="prompts")
    house.clock.now += 60.0
    say(house, 2, "chat")
    with house.database.read() as connection:
        assert prompt_summary.version(connection, 1) != before
    text = ada.get(f"{FIRST}/prompts").text
    assert "4 answers label 2 prompts" in text and "As of 2023-11-14 22:13 UTC" in text
    wait_for_end()
    assert "5 answers label 3 prompts" in ada.get(f"{FIRST}/prompts").text


def test_a_page_without_labels_says_so(house):
    page = house.browser("ada").get(f"{FIRST}/prompts")
    assert page.status == 200 and "Nobody has said anything" in page.text


def test_snapshots_have_every_answer(house):
    ada = furnish(house)
    page = ada.submit(ada.get(FIRST), f"{FIRST}/snapshots")
    (address,) = [link for link in page.links if link.endswith("/prompt_labels.jsonl")]
    rows = [json.loads(line) for line in ada.get(address).html.splitlines()]
    assert len(rows) == 4
    said = {(row["use_case"], tuple(row["yes"]), tuple(row["no"])) for row in rows}
    assert said == {
        ("chat", ("ambiguous",), ()),
        ("rewrite", ("ambiguous",), ("closed_domain",)),
        ("chat", (), ()),
    }
    assert {row["prompt_id"] for row in rows} == {"p0", "p1"}
    assert len({row["labeler"] for row in rows}) == 2
    first = rows[0]
    assert list(first) == [
        "prompt_id", "use_case", "yes", "no", "labeler", "cohort", "split", "pool", "extra",
        "guideline", "schema",
    ]  # fmt: skip
    assert first["labeler"].startswith("labeler-") and first["cohort"] == "train"
    table = ada.get(address.replace("prompt_labels.jsonl", "prompt_labels.parquet"))
    assert table.status == 200 and table.response.content[:4] == b"PAR1"
