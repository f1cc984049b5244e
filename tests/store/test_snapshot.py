"""The files of a snapshot: what is in them, what is left out, and the same bytes each time."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace

import pytest

from heedful.data.formats import read_comparisons, read_demonstrations, read_prompts
from heedful.records import Rating
from heedful.store import erasure, exports, labels, people, pools, projects, snapshot, tasks
from heedful.store.answers import (
    DemonstrationAnswer,
    LabelSchema,
    PromptAnswer,
    PromptLabels,
    RankingAnswer,
)
from heedful.store.database import open_database
from heedful.store.problems import Conflict, StoreError
from heedful.store.snapshot import Query

FILES = ("prompts", "demonstrations", "comparisons")


def claim(house, labeler, kind="ranking", after=0.0):
    who = house.labelers[labeler]
    return house.write(tasks.claim, house.project.id, who, kind, now=house.now + after)


def submit(house, labeler, work, answer, key, after=0.0):
    who = house.labelers[labeler]
    return house.write(tasks.submit, work.id, who, answer, key=key, now=house.now + after)


def rank(house, labeler, key, best="a", **flags):
    """Ranks the labeler's next task: the output ``best`` first, two tied, a gap, the last."""
    work = claim(house, labeler)
    place = next(n for n, text in enumerate(work.outputs) if text.startswith(f"Output {best}"))
    others = iter([2, 2, 4])
    ranks = tuple(1 if n == place else next(others) for n in range(4))
    answer = RankingAnswer(
        ranks, tuple(Rating(8 - r, {"sexual": False}) for r in ranks), PromptLabels(flags=flags)
    )
    submit(house, labeler, work, answer, key)
    return work, dict(zip(work.outputs, ranks, strict=True))


@pytest.fixture
def shared(house):
    """The house with questions that may stay open, where each task is for two, and one held out."""
    settings = replace(house.project.settings, overlap_fraction=1.0, overlap_n=2, heldout_n=1)
    house.write(pools.change_settings, house.project.id, settings, actor=house.admin, now=house.now)
    fast = LabelSchema(mode="fast")
    house.write(projects.publish_schema, house.project.id, fast, actor=house.admin, now=house.now)
    return house


def take(house, directory, **query):
    written = house.read(snapshot.write, house.project.id, directory, Query(**query))
    number = house.write(snapshot.note, written, actor=house.admin, now=house.now)
    return {kind: rows_in(directory / f"{kind}.jsonl") for kind in FILES}, written, number


def rows_in(path):
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def test_a_ranking_comes_out_as_it_was_given(shared, tmp_path):
    house = shared
    work, given = rank(house, 0, "k", best="c")
    rows, _, _ = take(house, tmp_path / "s")
    (row,) = rows["comparisons"]
    name = f"p{work.prompt[-1]}"
    assert (row["prompt_id"], row["prompt"]) == (name, work.prompt)
    assert row["completions"] == [
        {
            "id": f"{name}{x}",
            "text": f"Output {x} of {name}",
            "model": f"model-{x}",
            "finished": True,
        }
        for x in "abcd"
    ]
    dense = {1: 1, 2: 2, 4: 3}
    texts = [output["text"] for output in row["completions"]]
    assert row["ranks"] == [dense[given[text]] for text in texts]
    assert row["ratings"] == [{"overall": 8 - given[text], "sexual": False} for text in texts]
    assert [texts[place] for place in row["display_order"]] == list(work.outputs)
    assert (row["cohort"], row["extra"], row["pool"], row["split"]) == (
        "train",
        False,
        "work",
        "train",
    )
    assert (row["guideline"], row["schema"]) == (1, 2)
    assert row["labeler"].startswith("labeler-") and str(house.labelers[0]) != row["labeler"]


def test_the_training_side_reads_the_directory_as_it_is(shared, tmp_path):
    house = shared
    rank(house, 0, "k")
    work = claim(house, 1, "demonstration")
    submit(house, 1, work, DemonstrationAnswer("Ein Übermaß"), "d")
    take(house, tmp_path / "s")
    (comparison,) = read_comparisons(tmp_path / "s")
    (demonstration,) = read_demonstrations(tmp_path / "s")
    prompts = list(read_prompts(tmp_path / "s"))
    assert len(comparison.completions) == 4 and max(comparison.ranks) == 3
    assert comparison.ratings[0].flags == {"sexual": False}
    assert (demonstration.prompt, demonstration.response) == ("Prompt 0", "Ein Übermaß")
    assert [prompt.id for prompt in prompts] == ["p0", "p1", "p2", "p3"]
    # Two customers wrote two prompts each: pseudonyms keep that and hide the names.
    users = [prompt.user for prompt in prompts]
    assert users[0] == users[2] != users[1] == users[3]
    assert not any("customer" in user for user in users)


def test_the_same_data_give_the_same_bytes_wherever_and_whenever(shared, tmp_path):
    house = shared
    for labeler in (0, 1):
        rank(house, labeler, f"k{labeler}")
    contents = []
    for place in ("one", "two"):
        _, written, number = take(house, tmp_path / place)
        files = sorted(p.name for p in (tmp_path / place).iterdir())
        assert files == [
            "comparisons.jsonl",
            "demonstrations.jsonl",
            "manifest.json",
            "prompt_labels.jsonl",
            "prompts.jsonl",
        ]
        contents.append([(tmp_path / place / name).read_bytes() for name in files])
        assert number == 1
    assert contents[0] == contents[1]
    manifest = json.loads((tmp_path / "one/manifest.json").read_text(encoding="utf-8"))
    for name, file in manifest["files"].items():
        data = (tmp_path / "one" / name).read_bytes()
        assert file == {
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
            "rows": data.count(b"\n"),
        }
    assert manifest["counts"]["comparisons"] == {"train": {"api": 2}}
    assert manifest["guidelines"] == {"1": hashlib.sha256(b"Be kind.").hexdigest()}
    rank(house, 0, "more")
    _, later, number = take(house, tmp_path / "three")
    assert number > 1 and later.manifest_sha256 != written.manifest_sha256
    made = house.read(snapshot.all_snapshots, house.project.id)
    assert [s.manifest_sha256 for s in made] == [later.manifest_sha256, written.manifest_sha256]


def test_the_same_work_on_both_databases_gives_the_same_bytes(
    tmp_path, sqlite_store, postgresql_store, furnish_store
):
    contents = []
    for address in (str(shutil.copy(sqlite_store, tmp_path / "labels.db")), postgresql_store):
        database = open_database(address, now=1.0)
        house = furnish_store(database)
        house.write(
            projects.publish_schema,
            house.project.id,
            LabelSchema(mode="fast"),
            actor=house.admin,
            now=house.now,
        )
        for labeler, best in ((0, "b"), (1, "c")):
            rank(house, labeler, f"k{labeler}", best=best)
        directory = tmp_path / f"s{len(contents)}"
        house.read(snapshot.write, house.project.id, directory)
        contents.append({path.name: path.read_bytes() for path in directory.iterdir()})
        database.close()
    assert contents[0] == contents[1] and len(contents[0]) == 5


def test_held_out_labelers_flagged_prompts_and_gold_stay_out(shared, tmp_path):
    house = shared
    held, _ = rank(house, 3, "h")
    flagged, _ = rank(house, 0, "f", pii=True)
    gold = next(n for n in house.tasks if n not in (f"p{flagged.prompt[-1]}", "p0"))
    house.write(
        pools.set_gold, house.tasks[gold], {"ranks": [1, 2, 3, 4]}, actor=house.admin, now=house.now
    )
    settings = replace(house.project.settings, gold_fraction=1.0)
    house.write(pools.change_settings, house.project.id, settings, actor=house.admin, now=house.now)
    asked, _ = rank(house, 1, "g")
    assert asked.prompt[-1] == gold[-1]
    rows, _, _ = take(house, tmp_path / "s")
    assert rows["comparisons"] == []
    assert f"p{flagged.prompt[-1]}" not in {row["id"] for row in rows["prompts"]}
    rows, _, _ = take(house, tmp_path / "all", heldout=True, shared=True)
    marks = [(row["cohort"], row["pool"]) for row in rows["comparisons"]]
    expected = [("train", "gold")]
    if held.prompt != flagged.prompt:
        expected.insert(0, ("heldout", "gold" if held.prompt == asked.prompt else "work"))
    assert marks == expected


def test_extra_answers_are_marked_and_can_be_left_out(shared, tmp_path):
    house = shared
    settings = replace(house.project.settings, overlap_fraction=0.0)
    house.write(pools.change_settings, house.project.id, settings, actor=house.admin, now=house.now)
    late = claim(house, 0)
    house.write(tasks.expire, now=house.now + 100)
    prompt = None
    number = 0
    while prompt != late.prompt:
        number += 1
        prompt = rank(house, 1, f"k{number}")[0].prompt
    answer = RankingAnswer((1, 2, 3, 4), (None,) * 4)
    assert submit(house, 0, late, answer, "late", after=200).is_extra
    rows, _, _ = take(house, tmp_path / "s")
    assert [row["extra"] for row in rows["comparisons"]] == [False] * number + [True]
    assert rows["comparisons"][-1]["ratings"] == [None] * 4
    rows, _, _ = take(house, tmp_path / "t", extra=False)
    assert len(rows["comparisons"]) == number


def test_what_was_taken_back_is_not_in_it(shared, tmp_path):
    house = shared
    work, _ = rank(house, 0, "k")
    house.write(tasks.undo, work.id, house.labelers[0], now=house.now + 5)
    rows, written, _ = take(house, tmp_path / "s")
    assert rows["comparisons"] == []
    assert snapshot.labeler_key(house.labelers[0]) not in written.people


def test_a_few_shot_prompt_of_k_pairs_makes_k_examples(house, tmp_path):
    house.write(pools.add_prompt_task, house.project, "few_shot")
    work = claim(house, 0, "prompt")
    pairs = (("2+2", "4"), ("3+4", "7"), ("1+1", "2"))
    answer = PromptAnswer("Add the numbers.", pairs=pairs, use_case="other")
    submit(house, 0, work, answer, "k")
    rows, _, _ = take(house, tmp_path / "s")
    made = [(row["prompt"].split("\n\n"), row["response"]) for row in rows["demonstrations"]]
    task, one, two, three = "Add the numbers.", "Input: 2+2", "Input: 3+4", "Input: 1+1"
    given = [f"{one}\nOutput: 4", f"{two}\nOutput: 7", f"{three}\nOutput: 2"]
    assert made == [
        ([task, given[1], given[2], f"{one}\nOutput:"], "4"),
        ([task, given[0], given[2], f"{two}\nOutput:"], "7"),
        ([task, given[0], given[1], f"{three}\nOutput:"], "2"),
    ]
    written = [row for row in rows["prompts"] if row["source"] == "labeler"]
    assert [(r["kind"], r["use_case"]) for r in written] == [("few_shot", "other")] * 3
    assert {r["user"] for r in written} == {rows["demonstrations"][0]["labeler"]}
    assert len({r["split"] for r in written}) == 1
    house.write(tasks.undo, work.id, house.labelers[0], now=house.now + 5)
    rows, _, _ = take(house, tmp_path / "t")
    assert len(rows["prompts"]) == 4 and rows["demonstrations"] == []


def test_an_erasure_while_it_was_written_is_noticed(shared, tmp_path):
    house = shared
    rank(house, 0, "k")
    written = house.read(snapshot.write, house.project.id, tmp_path / "s")
    house.write(erasure.erase_labeler, house.labelers[0], actor=house.admin, now=house.now)
    with pytest.raises(Conflict, match="1 people were erased"):
        house.write(snapshot.note, written, actor=house.admin, now=house.now)


def test_pairs_are_the_untied_ones(shared, tmp_path):
    house = shared
    work, given = rank(house, 0, "k", best="d")
    take(house, tmp_path / "s")
    target = tmp_path / "pairs.jsonl"
    assert exports.write_pairs(tmp_path / "s", target) == 5  # of six, one is tied
    pairs = rows_in(target)
    assert all(given[pair["chosen"]] < given[pair["rejected"]] for pair in pairs)
    assert {pair["prompt"] for pair in pairs} == {work.prompt}
    assert len(list(read_comparisons(target))) == 5


def test_parquet_has_the_same_rows(shared, tmp_path):
    import pyarrow.parquet as pq

    house = shared
    rank(house, 0, "k")
    rows, _, _ = take(house, tmp_path / "s")
    files = exports.write_parquet(tmp_path / "s", tmp_path / "parquet")
    assert [file.name for file in files] == ["prompts.parquet", "comparisons.parquet"]
    (row,) = pq.read_table(files[1]).to_pylist()
    assert row["ranks"] == rows["comparisons"][0]["ranks"]
    assert next(iter(read_comparisons(files[1]))).ranks == tuple(row["ranks"])
    shutil.rmtree(tmp_path / "s")
    with pytest.raises(StoreError, match="no whole snapshot"):
        exports.write_parquet(tmp_path / "s", tmp_path / "again")


def test_statistics_read_what_the_snapshot_holds(shared):
    house = shared
    work, given = rank(house, 0, "k", ambiguous=True)
    (row,) = house.read(lambda c: list(labels.ranking_rows(c, house.project.id)))
    with house.database.read() as connection:
        lengths = labels.output_lengths(connection, house.project.id, {row.task_id})
        flags = list(labels.prompt_label_rows(connection, house.project.id))
    assert [given[f"Output {x} of p{work.prompt[-1]}"] for x in "abcd"] == list(row.ranks)
    assert [lengths[number] for number in row.outputs] == [14] * 4
    assert flags == [(row.prompt_id, house.labelers[0], PromptLabels(flags={"ambiguous": True}))]
    assert house.read(people.membership, house.project.id, row.labeler_id).cohort == row.cohort
