"""Suites and tasks by name, the rows of a file, and the measures with paired differences."""

from __future__ import annotations

import json

import numpy as np
import pytest

from heedful.errors import ConfigError, DataError
from heedful.evaluation.items import DataFile, Item, Metric, MissingData, Task, chosen, locate
from heedful.evaluation.suite import (
    Graders,
    find_suites,
    find_tasks,
    format_table,
    measures,
    read_results,
    score_rows,
)

FILE = DataFile("part/names.jsonl", "https://example.org/names", "MIT")


def letter_items(paths, shots):
    for i in range(40):
        yield Item(f"i{i}", f"c{i % 4}", "none", f"p{i}", ("a", "b"), {"right": i % 3 == 0})


def letter_scores(rows, graders):
    return [{"x": row["value"], "y": 1.0 if row["facts"]["right"] else None} for row in rows]


TASK = Task(
    "letters",
    (FILE,),
    letter_items,
    letter_scores,
    {
        "x": Metric(("x",), higher_is_better=True),
        "x over y": Metric(("x", "y"), lambda means: means[:, 0] / means[:, 1]),
    },
)


def test_unknown_names_are_answered_with_the_near_ones():
    with pytest.raises(ConfigError, match="unknown suite 'toxcity': did you mean 'toxicity'"):
        find_suites(["bias,toxcity"])
    suites = find_suites(["bias", "nlp"])
    with pytest.raises(ConfigError, match="unknown task 'crows_pair': did you mean 'crows_pairs'"):
        find_tasks(suites, ["crows_pair"])
    with pytest.raises(ConfigError, match="unknown suite 'zzz': known are truthfulness"):
        find_suites(["zzz"])


def test_all_suites_and_some_tasks():
    assert [s.name for s in find_suites(["all", "bias"])] == [
        "truthfulness",
        "toxicity",
        "bias",
        "nlp",
    ]
    found = find_tasks(find_suites(["all"]), ["bbq", "drop"])
    assert {name: [task.name for task in tasks] for name, tasks in found.items()} == {
        "bias": ["bbq"],
        "nlp": ["drop"],
    }


def test_a_missing_file_says_where_to_get_it_and_its_licence(tmp_path):
    with pytest.raises(
        MissingData, match=r"letters: .* no part/names.jsonl .*example.org/names .*MIT"
    ):
        locate(TASK, tmp_path)
    (tmp_path / "eval" / "part").mkdir(parents=True)
    path = tmp_path / "eval" / "part" / "names.jsonl.gz"
    path.touch()
    assert locate(TASK, tmp_path) == [path]


def test_a_limit_takes_the_same_items_and_more_of_them_where_it_is_raised():
    few, more = (chosen(TASK, [], limit, 0) for limit in (10, 20))
    assert len(few) == 10 and len(more) == 20
    assert {item.id for item in few} < {item.id for item in more}
    places = [int(item.id[1:]) for item in few]
    assert places == sorted(places) and places != list(range(10))
    assert len(chosen(TASK, [], None, 0)) == 40


def test_a_file_without_items_is_an_error():
    empty = TASK._replace(items=lambda paths, shots: iter(()))
    with pytest.raises(DataError, match="no item of letters"):
        chosen(empty, [], None, 0)


def test_a_cut_last_line_is_dropped_and_a_broken_one_named(tmp_path):
    path = tmp_path / "bias.jsonl"
    assert read_results(path) == []
    path.write_text('{"id": "1"}\n{"id": "2"}\n{"id": "3')
    assert [row["id"] for row in read_results(path)] == ["1", "2"]
    path.write_text('{"id": "1"}\n{"id": \n{"id": "3"}\n')
    with pytest.raises(DataError, match=r"bias.jsonl, line 2: not JSON"):
        read_results(path)


def rows(model, values):
    items = list(letter_items([], 0))
    return [
        {
            "model": model,
            "task": "letters",
            "variant": "none",
            "id": items[i].id,
            "cluster": items[i].cluster,
            "facts": dict(items[i].facts),
            "value": value,
        }
        for i, value in values.items()
    ]


def scored(model, values):
    return score_rows(TASK, rows(model, values), Graders(toxicity=lambda texts: []))


def test_measures_have_the_value_and_the_difference_on_shared_items():
    base = scored("base", {i: float(i) for i in range(12)})
    tuned = scored("tuned", {i: i + 2.0 for i in range(4, 16)})
    found = {(m.metric, m.model): m for m in measures([TASK], base + tuned, ["base", "tuned"])}
    assert found["x", "base"].interval.value == pytest.approx(np.mean(range(12)))
    assert found["x", "base"].difference is None
    assert found["x", "base"].num_items == 12
    # items 4 to 11 are of both; each is 2 larger, so there is nothing to be unsure of
    gap = found["x", "tuned"].difference
    assert (gap.value, gap.low, gap.high) == pytest.approx((2, 2, 2))
    assert found["x", "tuned"].interval.value == pytest.approx(np.mean(range(4, 16)) + 2)
    # y is known of every third item and is 1 there
    assert found["x over y", "base"].interval.value == pytest.approx(np.mean(range(12)))
    assert found["x over y", "tuned"].difference.value == pytest.approx(2)


def test_the_interval_draws_clusters():
    """Four clusters, equal within: what is drawn is four of the values 0 to 3."""
    found = measures([TASK], scored("m", {i: float(i % 4) for i in range(40)}), ["m"])[0].interval
    assert (found.low, found.high) == (0.5, 2.5)


def test_the_table_and_the_json_say_the_same():
    base = scored("base", {i: float(i) for i in range(8)})
    tuned = scored("tuned", {i: i - 1.0 for i in range(8)})
    found = measures([TASK], base + tuned, ["base", "tuned"])
    line = next(line for line in format_table(found).splitlines() if "tuned" in line)
    assert line.split()[:6] == ["letters", "none", "x", "tuned", "2.500", line.split()[5]]
    assert line.endswith("-1.000 (-1.000 to -1.000)")
    row = json.loads(json.dumps(found[1].to_row()))
    assert row["interval"]["value"] == 2.5 and row["difference"]["value"] == -1.0
