"""Data settings as rows: what is cut, left out or chosen, and what is said of it."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from heedful.commands.datasets import (
    load_demonstrations,
    load_prompts,
    load_rankings,
    say_bad_rows,
    select_prompts,
)
from heedful.config import SnapshotData
from heedful.data.bad_rows import BadRows
from heedful.data.template import Template
from heedful.errors import DataError

LONG, SHORT = "w2 w3 w4 w5 w6", "w7 w8 w9"  # 6 and 4 tokens with EOS


def write(path: Path, rows: list[Any]) -> str:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    data = "".join(line + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


@pytest.fixture
def template(tokenizer) -> Template:
    return Template(tokenizer)


# Responses over the limit


def test_cut_demonstrations_are_counted(tmp_path, template, capsys):
    rows = [{"prompt": "w2", "response": text, "split": "train"} for text in (LONG, SHORT, LONG)]
    rows.append({"prompt": "w2", "response": LONG, "split": "valid"})
    path = write(tmp_path / "d.jsonl", rows)
    data = SnapshotData(demonstrations=(path,), max_response_tokens=4)
    examples = load_demonstrations(data, template, "train", BadRows())
    assert [len(example.response) for example in examples] == [4, 4, 4]
    assert capsys.readouterr().err == (
        "train: 2 of 3 responses have more than 4 tokens and are cut there, without EOS\n"
    )
    load_demonstrations(data.model_copy(update={"max_response_tokens": 6}), template, "train",
                        BadRows())  # fmt: skip
    assert capsys.readouterr().err == ""


def test_a_completion_that_was_cut_when_sampled_has_no_eos(tmp_path, template):
    given = [{"text": SHORT, "finished": False}, {"text": SHORT, "finished": True}, {"text": LONG}]
    row = {"prompt": "w2", "completions": given, "ranks": [2, 1, 1], "split": "train"}
    data = SnapshotData(comparisons=(write(tmp_path / "c.jsonl", [row]),))
    (ranked,) = load_rankings(data, template, "train", BadRows())
    assert ranked.responses == [[7, 8, 9], [7, 8, 9, 0], [2, 3, 4, 5, 6, 0]]


def test_cut_completions_are_counted(tmp_path, template, capsys):
    completions = [{"text": text} for text in (LONG, SHORT, SHORT, LONG, LONG)]
    row = {"prompt": "w2", "completions": completions, "ranks": [1, 2, 3, 4, 5], "split": "valid"}
    path = write(tmp_path / "c.jsonl", [row])
    data = SnapshotData(comparisons=(path,), max_response_tokens=4)
    load_rankings(data, template, "valid", BadRows())
    assert "valid: 3 of 5 responses have more than 4 tokens" in capsys.readouterr().err


# Rows that cannot be used


def test_rows_left_out_are_counted_and_their_file_is_named(tmp_path, template, capsys):
    rows = ["not json", {"prompt": "w2"}, {"prompt": "w2", "response": SHORT, "split": "train"}]
    data = SnapshotData(demonstrations=(write(tmp_path / "d.jsonl", rows),))
    bad = BadRows(skip=True, to=tmp_path / "bad_rows.jsonl")
    for split in ("train", "valid"):  # read twice, counted once
        load_demonstrations(data, template, split, bad)
    say_bad_rows(bad)
    expected = f"2 rows of data left out, with the reasons in {tmp_path}/bad_rows.jsonl\n"
    assert capsys.readouterr().err == expected
    lines = (tmp_path / "bad_rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["line"] for line in lines] == [1, 2]


def test_rows_without_a_ranking_are_counted(tmp_path, template, capsys):
    row = {"prompt": "w2", "responses": [LONG, SHORT], "ranking": None}
    data = SnapshotData(comparisons=(write(tmp_path / "c.jsonl", [row]),))
    bad = BadRows()
    load_rankings(data, template, "train", bad)
    say_bad_rows(bad)
    assert capsys.readouterr().err == "1 row without a ranking left out\n"


def test_nothing_is_said_where_nothing_is_left_out(capsys):
    say_bad_rows(BadRows())
    assert capsys.readouterr().err == ""


# Prompts by their use

PROMPTS = [
    {"id": "a", "text": "w2", "split": "train", "use": "ppo"},
    {"id": "b", "text": "w3", "split": "train", "use": "sft"},
    {"id": "c", "text": "w4", "split": "valid", "use": "ppo"},
    {"id": "d", "text": "w5", "split": "train"},
]


def write_csv(path: Path) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["id", "text", "split", "use"])
        writer.writeheader()
        writer.writerows(PROMPTS)
    return str(path)


@pytest.mark.parametrize("name", ["p.jsonl", "p.jsonl.gz", "p.csv", "prompts.jsonl", "*.json"])
def test_prompts_are_chosen_by_use_out_of_any_file(tmp_path, name):
    """A folder and a glob too."""
    if name.endswith(".csv"):
        source = write_csv(tmp_path / name)
    else:
        write(tmp_path / name.replace("*", "any"), PROMPTS)
        source = str(tmp_path if name == "prompts.jsonl" else tmp_path / name)
    assert [prompt.id for prompt in select_prompts([source], None, "ppo")] == ["a", "c"]
    assert [prompt.id for prompt in select_prompts([source], "train", "ppo")] == ["a"]
    assert [prompt.id for prompt in select_prompts([source], "train", None)] == ["a", "b", "d"]


def test_prompts_to_measure_on_are_of_any_use(tmp_path, template):
    data = SnapshotData(prompts=(write(tmp_path / "p.jsonl", PROMPTS),), use="sft")
    assert [p.prompt_id for p in load_prompts(data, template, "train", BadRows())] == ["b"]
    assert [p.prompt_id for p in load_prompts(data, template, "valid", BadRows())] == ["c"]


def test_a_use_that_no_row_has_is_an_error_that_names_the_file(tmp_path):
    path = write(tmp_path / "p.jsonl", PROMPTS)
    with pytest.raises(DataError, match=r"p.jsonl: no row has use = 'rl' .* \(ppo, sft\): correct"):
        select_prompts([path], "train", "rl")
    path = write(tmp_path / "none.jsonl", PROMPTS[3:])
    with pytest.raises(DataError, match=r"none.jsonl: no row has .* 'use' \(the rows have none\)"):
        select_prompts([path], "train", "ppo")


def test_a_row_to_be_used_needs_an_id(tmp_path):
    path = write(tmp_path / "p.jsonl", [*PROMPTS, {"text": "w6", "use": "ppo"}])
    with pytest.raises(DataError, match=r"p.jsonl, line 5: field 'id': found nothing"):
        select_prompts([path], "train", "ppo")
    bad = BadRows(skip=True)
    assert [row.id for row in select_prompts([path], None, "ppo", bad=bad)] == ["a", "c"]
    assert bad.num_bad == 1


# Splits


def test_rows_without_a_split_have_that_of_their_prompt(tmp_path, template):
    """Prompts that were split by user: their hash would put them elsewhere."""
    prompts = [
        {"id": "a", "text": "w2", "split": "valid"},
        {"id": "b", "text": "w3", "split": "test"},
        {"id": "c", "text": "w4", "split": "train"},
        {"id": "d", "text": "w3", "split": "train"},  # the text is held out above
    ]
    rows = [
        {"prompt": "w2"},  # by its text
        {"prompt_id": "b", "prompt": "w9"},  # by its id
        {"prompt_id": "c", "prompt": "w2"},  # the text counts before the id
        {"prompt": "w3"},
        {"prompt": "w4"},
        {"prompt": "w2", "split": "train"},  # as it says
    ]
    pair = {"completions": [{"text": "w5"}, {"text": "w6"}], "ranks": [1, 2]}
    given = {
        "prompts": (write(tmp_path / "p.jsonl", prompts),),
        "demonstrations": (write(tmp_path / "d.jsonl", [r | {"response": "w5"} for r in rows]),),
        "comparisons": (write(tmp_path / "c.jsonl", [row | pair for row in rows]),),
    }
    expected = {"train": [[4], [2]], "valid": [[2], [2]], "test": [[9], [3]]}
    data = SnapshotData(**given)
    for split, tokens in expected.items():
        for load in (load_demonstrations, load_rankings):
            found = load(data, template, split, BadRows())
            assert [row.prompt for row in found] == tokens
    # without the prompts a hash decides: nothing is a test row, and all rows are somewhere
    data = SnapshotData(**given | {"prompts": ()}, valid_share=0.0)
    assert len(load_demonstrations(data, template, "train", BadRows())) == len(rows)
