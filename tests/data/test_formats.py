"""Every shape and container is read, and every bad row says what is wrong with it."""

from __future__ import annotations

import csv
import gzip
import json
import sys
import types
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from heedful.data.bad_rows import BadRows
from heedful.data.formats import (
    assign_split,
    prompt_id,
    read_comparisons,
    read_completions,
    read_demonstrations,
    read_prompts,
    read_text,
)
from heedful.errors import DataError, MissingExtraError
from heedful.records import Completion, Demonstration, Prompt, Ranking, Rating, to_row

PAIR = {"prompt": "Q", "responses": ["a", "b"], "ranking": [2, 1]}


def write(path: Path, *rows: Any) -> Path:
    text = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_snapshot_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    prompt = Prompt("p1", "Say hi.", "labeler", "few_shot", "u1", "chat", "test", "en")
    demonstration = Demonstration("p1", "Say hi.", "hi", "ann", "valid")
    ranking = Ranking(
        "p1",
        "Say hi.",
        (
            Completion("c1", "hi", "sft"),
            Completion("c2", "", None),
            Completion("c3", "ho", "ppo", False),
        ),
        (1, 3, 1),
        "ann",
        "heldout",
        (Rating(7, {"hallucination": False, "sexual": None}), None, Rating(1)),
        "test",
    )
    write(tmp_path / "manifest.json", {"made": "by hand"})
    write(tmp_path / "prompts.jsonl", to_row(prompt))
    write(tmp_path / "demonstrations.jsonl", to_row(demonstration))
    write(tmp_path / "comparisons.jsonl", to_row(ranking))
    assert list(read_prompts(tmp_path)) == [prompt]
    assert list(read_demonstrations(tmp_path)) == [demonstration]
    assert list(read_comparisons(tmp_path)) == [ranking]


def test_whether_a_completion_ended_is_true_or_false(tmp_path: Path) -> None:
    given = [{"text": "a"}, {"text": "b", "finished": None}, {"text": "c", "finished": False}]
    row = {"prompt": "p", "completions": given, "ranks": [1, 2, 3]}
    (found,) = read_comparisons(write(tmp_path / "c.jsonl", row))
    assert [completion.finished for completion in found.completions] == [True, True, False]
    given[0]["finished"] = "yes"
    with pytest.raises(DataError, match=r'line 1.*finished.*"yes".*true, false or null'):
        list(read_comparisons(write(tmp_path / "d.jsonl", row)))


def demonstration_of(tmp_path: Path, row: dict[str, Any]) -> tuple[str, str]:
    (found,) = read_demonstrations(write(tmp_path / "d.jsonl", row))
    return found.prompt, found.response


def test_alpaca_joins_instruction_and_input(tmp_path: Path) -> None:
    row = {"instruction": "Add.", "input": "1 2", "output": "3"}
    assert demonstration_of(tmp_path, row) == ("Add.\n\n1 2", "3")
    assert demonstration_of(tmp_path, row | {"input": ""}) == ("Add.", "3")
    assert demonstration_of(tmp_path, row | {"input": None, "output": "0"}) == ("Add.", "0")


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"prompt": "Add.", "response": ""}, "response"),
        ({"instruction": "Add.", "output": " \n"}, "output"),
        (
            {"messages": [{"role": "user", "content": "Add."},
                          {"role": "assistant", "content": ""}]},
            "messages",
        ),
    ],
)  # fmt: skip
def test_an_empty_response_is_no_demonstration(
    tmp_path: Path, row: dict[str, Any], field: str
) -> None:
    good = {"prompt": "Add.", "response": "2"}
    with pytest.raises(DataError) as caught:
        list(read_demonstrations(write(tmp_path / "d.jsonl", good, row)))
    assert f"d.jsonl, line 2: field {field!r}: found an empty response" in str(caught.value)
    assert "drop the row" in str(caught.value)
    # a completion may be empty: it is ranked, not imitated
    pair = {"prompt": "Add.", "chosen": "2", "rejected": ""}
    assert ranking_of(tmp_path, pair)[1] == ["2", ""]


def test_messages_become_a_dialogue(tmp_path: Path) -> None:
    turns = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Yo"), ("user", "Go on")]
    messages = [{"role": role, "content": text} for role, text in turns]
    prompt = "Be kind.\n\nHuman: Hi\n\nAssistant: Yo\n\nHuman: Go on\n\nAssistant:"
    answered = [*messages, {"role": "assistant", "content": "No"}, {"role": "user", "content": "x"}]
    assert demonstration_of(tmp_path, {"messages": answered}) == (prompt, "No")
    (found,) = read_prompts(write(tmp_path / "p.jsonl", {"messages": messages}))
    assert found.text == prompt


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"text": "A"}, "A"),
        ({"prompt": " A", "response": "b"}, " A"),
        ({"instruction": "A", "input": "B"}, "A\n\nB"),
    ],
)
def test_prompt_shapes(tmp_path: Path, row: dict[str, Any], text: str) -> None:
    (found,) = read_prompts(write(tmp_path / "p.jsonl", row | {"source": "a/b", "user_id": 7}))
    assert (found.text, found.source, found.user) == (text, "api", "7")
    assert found.id == prompt_id(text)


def ranking_of(tmp_path: Path, row: dict[str, Any]) -> tuple[str, list[str], tuple[int, ...]]:
    (found,) = read_comparisons(write(tmp_path / "c.jsonl", row))
    return found.prompt, [c.text for c in found.completions], found.ranks


def test_comparison_shapes(tmp_path: Path) -> None:
    assert ranking_of(tmp_path, PAIR) == ("Q", ["a", "b"], (2, 1))
    row: dict[str, Any] = {"prompt": "Q", "chosen": "a", "rejected": "b"}
    assert ranking_of(tmp_path, row) == ("Q", ["a", "b"], (1, 2))
    start = "\n\nHuman: Hi\n\nAssistant: Yo\n\nHuman: Say the Assistant: line\n\nAssistant:"
    row = {"chosen": f"{start} The sun", "rejected": f"{start} The moon\n\nHuman: no"}
    expected = (start.strip(), ["The sun", "The moon\n\nHuman: no"], (1, 2))
    assert ranking_of(tmp_path, row) == expected
    turn = {"role": "user", "content": "Hi"}
    row = {
        "chosen": [turn, {"role": "assistant", "content": "a"}],
        "rejected": [turn, {"role": "assistant", "content": "b"}],
    }
    assert ranking_of(tmp_path, row) == ("Human: Hi\n\nAssistant:", ["a", "b"], (1, 2))


def test_models_and_ids_of_responses(tmp_path: Path) -> None:
    (found,) = read_comparisons(
        write(tmp_path / "c.jsonl", PAIR | {"id": "r9", "models": ["x", None]})
    )
    assert found.completions == (Completion("r9/0", "a", "x"), Completion("r9/1", "b", None))
    assert found.prompt_id == prompt_id("Q")


def test_unranked_rows_are_counted_not_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", PAIR | {"ranking": None}, PAIR)
    bad = BadRows()
    assert len(list(read_comparisons(path, bad=bad))) == 1
    list(read_comparisons(path, bad=bad))
    assert (bad.num_unranked, bad.num_bad) == (1, 0)


def containers(directory: Path, rows: list[dict[str, Any]]) -> list[Path]:
    """The same rows in every container, plain and compressed."""
    write(directory / "a.jsonl", *rows)
    (directory / "b.json").write_text(json.dumps(rows, indent=1))
    write(directory / "c.json", *rows)
    for name, delimiter in (("d.csv", ","), ("e.tsv", "\t")):
        with (directory / name).open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            for row in rows:
                cells = {k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()}
                writer.writerow(cells)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), directory / "f.parquet")
    for path in sorted(directory.iterdir()):
        (directory / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    return sorted(directory.iterdir())


def test_every_container_gives_the_same_rankings(tmp_path: Path) -> None:
    rows = [
        {"prompt": 'Quote "me",\nplease', "responses": ["a, b", "é\n"], "ranking": [1, 1]},
        {"prompt": "Q2", "responses": ["", "b", "c"], "ranking": [3, 1, 2]},
    ]
    paths = containers(tmp_path, rows)
    assert len(paths) == 12
    for path in paths:
        found = [
            (r.prompt, [c.text for c in r.completions], list(r.ranks))
            for r in read_comparisons(path)
        ]
        assert found == [(r["prompt"], r["responses"], r["ranking"]) for r in rows], path.name
    assert len(list(read_comparisons(tmp_path))) == 24
    assert len(list(read_comparisons(str(tmp_path / "*.csv*")))) == 4
    assert len(list(read_comparisons([tmp_path / "a.jsonl", tmp_path / "d.csv"]))) == 4


def test_directories_leave_out_what_is_not_data(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl.gz", ".hidden.jsonl", "_tmp.jsonl", "notes.md"):
        write(tmp_path / name, {"text": name})
    (tmp_path / "inner").mkdir()
    write(tmp_path / "inner" / "c.jsonl", {"text": "c"})
    assert [p.text for p in read_prompts(tmp_path)] == ["a.jsonl.gz", "b.jsonl"]
    # a glob means what it says, hidden files aside
    texts = [p.text for p in read_prompts(str(tmp_path / "**" / "*.jsonl"))]
    assert texts == ["_tmp.jsonl", "b.jsonl", "c"]


def test_text_documents(tmp_path: Path) -> None:
    path = tmp_path / "t.txt.gz"
    write(path, "one\n\ntwo <|endoftext|>\n<|endoftext|>\n\n<|endoftext|>\nthree\u2028x\n")
    assert list(read_text(path)) == ["one\n\ntwo <|endoftext|>", "three\u2028x"]
    assert list(read_text(write(tmp_path / "u.txt", "a\nb"))) == ["a\nb"]
    write(tmp_path / "v.jsonl", {"text": "d"}, {"text": "e"})
    assert sorted(map(len, read_text(tmp_path))) == [1, 1, 3, 7, 22]


def test_split_is_kept_or_hashed_by_prompt(tmp_path: Path) -> None:
    prompts = [f"prompt {k}" for k in range(4000)]
    path = write(tmp_path / "p.jsonl", *({"prompt": p, "response": p[::-1]} for p in prompts))
    demonstrations = {d.prompt: d.split for d in read_demonstrations(path, valid_share=0.25)}
    assert {p.text: p.split for p in read_prompts(path, valid_share=0.25)} == demonstrations
    share = sum(split == "valid" for split in demonstrations.values()) / len(prompts)
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / 4000) ** 0.5
    assert assign_split("x", 0.0) == "train" and assign_split("x", 1.0) == "valid"
    # widening the share moves nothing back into training
    assert all(assign_split(p, 0.5) == "valid" for p, s in demonstrations.items() if s == "valid")
    write(path, {"text": "x", "split": "validation"}, {"text": "y", "split": "test"})
    assert [p.split for p in read_prompts(path)] == ["valid", "test"]


RANKED = {"prompt": "Q", "completions": [{"text": "a"}, {"text": "b"}], "ranks": [1, 2]}


@pytest.mark.parametrize(
    ("row", "field", "found"),
    [
        (PAIR | {"ranking": [1]}, "ranking", "1 ranks for 2 completions"),
        (PAIR | {"ranking": [0, 1]}, "ranking", "[0, 1]"),
        (PAIR | {"ranking": [1.5, 1]}, "ranking", "[1.5, 1]"),
        (PAIR | {"ranking": [True, 1]}, "ranking", "[true, 1]"),
        (PAIR | {"ranking": "1 2"}, "ranking", 'str "1 2"'),
        ({"prompt": "Q", "responses": ["a", "b"]}, "ranking", "completions without ranks"),
        (PAIR | {"responses": ["a"], "ranking": [1]}, "responses", "1 completion;"),
        (PAIR | {"responses": ["a", 3]}, "responses[1]", "int 3"),
        (PAIR | {"responses": ["a", None]}, "responses[1]", "null"),
        (PAIR | {"prompt": " \n"}, "prompt", "empty text"),
        (PAIR | {"prompt": 3}, "prompt", "int 3"),
        (PAIR | {"prompt": "\ud83d"}, "prompt", "half of a surrogate pair"),
        (PAIR | {"split": "holdout"}, "split", '"holdout"'),
        (RANKED | {"completions": ["a", "b"]}, "completions[0]", 'str "a"'),
        (RANKED | {"completions": [{"text": "a"}, {"text": 5}]}, "completions[1].text", "int 5"),
        (
            RANKED | {"completions": [{"text": "a"}, {"response": "b", "id": "x"}]},
            "completions[1].text",
            "nothing (the fields are id, response)",
        ),
        (
            RANKED | {"completions": [{"text": "a", "finished": "no"}, {"text": "b"}]},
            "completions[0].finished",
            '"no"',
        ),
        (RANKED | {"cohort": "b"}, "cohort", '"b"'),
        (RANKED | {"labeler": ["x"]}, "labeler", 'list ["x"]'),
        (RANKED | {"ratings": [None]}, "ratings", "1 ratings for 2 completions"),
        (RANKED | {"ratings": [None, {"overall": 8}]}, "ratings[1]", '{"overall": 8}'),
        (RANKED | {"ratings": [{"overall": 7, "x": 1}, None]}, "ratings[0]", '{"overall": 7, "x"'),
        ({"chosen": "a", "rejected": "b"}, "chosen", "no turns shared"),
        ({"chosen": [], "rejected": []}, "chosen", "turns of nobody"),
        ({"chosen": [{"role": "tool"}], "rejected": []}, "chosen", 'turn 1: {"role": "tool"}'),
    ],
)
def test_bad_comparisons_say_what_is_wrong(
    tmp_path: Path, row: dict[str, Any], field: str, found: str
) -> None:
    path = write(tmp_path / "c.jsonl.gz", PAIR, "\n", row, PAIR)
    with pytest.raises(DataError) as caught:
        list(read_comparisons(path))
    message = str(caught.value)
    assert "1 row cannot be used" in message
    assert f"c.jsonl.gz, line 3: field '{field}': found {found}" in message
    assert "needed" in message


@pytest.mark.parametrize(
    ("row", "mend"),
    [
        (
            {"prompt": "Q", "completions": RANKED["completions"], "rank": [1, 2]},
            "'rank' to 'ranks'",
        ),
        (
            {"prompt": "Q", "completions": RANKED["completions"], "Ranks": [1, 2]},
            "'Ranks' to 'ranks'",
        ),
        ({"prompt": "Q", "responses": ["a", "b"], "rankings": [1, 2]}, "'rankings' to 'ranking'"),
        ({"Prompt": "Q", "chosen": "a", "rejected": "b"}, "'Prompt' to 'prompt'"),
        ({"prompt_id": "Q", "chosen": "a", "rejected": "b"}, None),
        ({"promt": "Q", "responses": ["a", "b"], "ranking": [1, 2]}, "'promt' to 'prompt'"),
        (
            {"prompt": "Q", "completion": ["a", "b"], "rank": [1, 2]},
            "'completion' to 'completions' and",
        ),
        ({"prompt": "Q", "choosen": "a", "rejected": "b"}, "'choosen' to 'chosen'"),
    ],
)
def test_a_field_under_a_name_like_ours_is_pointed_out(
    tmp_path: Path, row: dict[str, Any], mend: str | None
) -> None:
    with pytest.raises(DataError) as caught:
        list(read_comparisons(write(tmp_path / "c.jsonl", row)))
    said = str(caught.value)
    assert "c.jsonl, line 1" in said
    assert ("Rename " + mend in said) if mend else ("Rename" not in said)


def test_names_of_others_are_pointed_out_and_ours_are_not(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", {"question": "Q", "answer": "a"})
    with pytest.raises(
        DataError, match=r"Rename 'question' to 'prompt' and 'answer' to 'response'"
    ):
        list(read_demonstrations(path))
    write(path, {"prompt_id": "1", "response": "a"})  # an id is not a prompt under another name
    with pytest.raises(DataError, match="Is this the right file"):
        list(read_demonstrations(path))


def test_completions_without_ranks_are_named_as_such(tmp_path: Path) -> None:
    """What heed sample writes, given to heed reward: every row in one line of the message."""
    row = {"prompt_id": "p", "prompt": "Q", "completions": RANKED["completions"]}
    with pytest.raises(DataError) as caught:
        list(read_comparisons(write(tmp_path / "completions.jsonl", row, row)))
    said = str(caught.value)
    assert "lines 1, 2: field 'ranks': found completions without ranks" in said
    assert "heed label serve" in said and "heed label export" in said


def test_completions_to_rank_have_the_ids_that_their_rankings_have(tmp_path: Path) -> None:
    rows = [
        {"id": "r1", "prompt_id": "p", "prompt": "Q", "completions": RANKED["completions"]},
        {"id": "r2", "prompt": "Q", "responses": ["a", "b"], "models": ["m", "n"]},
        {"prompt": "Q", "completions": [{"id": "c", "text": "alone", "finished": False}]},
    ]
    path = write(tmp_path / "c.jsonl", *rows)
    found = list(read_completions(path))
    assert [prompt.id for prompt, _ in found] == ["p", "r2", prompt_id("Q")]
    assert [[c.id for c in given] for _, given in found] == [
        ["r1/0", "r1/1"],
        ["r2/0", "r2/1"],
        ["c"],
    ]
    assert found[1][1][1] == Completion("r2/1", "b", "n")
    assert not found[2][1][0].finished
    ranked = [rows[0] | {"ranks": [1, 2]}, rows[1] | {"ranking": [2, 1]}]
    rankings = list(read_comparisons(write(path, *ranked)))
    assert [r.completions for r in rankings] == [given for _, given in found[:2]]


def test_headers_of_tables_may_differ_in_case_or_be_common_synonyms(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", "Question,Answer,User ID,Use-Case\nWho?,Me,u1,chat\n")
    (found,) = read_demonstrations(path)
    assert (found.prompt, found.response) == ("Who?", "Me")
    (prompt,) = read_prompts(path)
    assert (prompt.user, prompt.use_case) == ("u1", "chat")
    write(path, "query,prompt,Prompt,Response\nno,Who?,no,Me\n")  # our own name comes first
    (found,) = read_demonstrations(path)
    assert (found.prompt, found.response) == ("Who?", "Me")
    write(path, 'Prompt,Responses,Ranking\nWho?,"[""a"", ""b""]","[1, 2]"\n')
    (ranking,) = read_comparisons(path)
    assert (ranking.ranks, ranking.completions[1].text) == ((1, 2), "b")


def test_a_table_with_another_separator_is_told_which(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", "prompt;response\nWho?;Me\n")
    with pytest.raises(DataError, match=r"d\.csv, line 1: the columns .* by ';'; needed ','"):
        list(read_demonstrations(path))
    path = write(tmp_path / "d.tsv", "prompt,response\nWho?,Me\n")
    with pytest.raises(DataError, match=r"line 1: the columns .* by ','; needed '.t'"):
        list(read_demonstrations(path))
    assert [p.text for p in read_prompts(write(path, "text\na,b;c\n"))] == ["a,b;c"]


def test_a_header_that_lacks_a_field_is_named_once_at_line_1(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", "prompt,said\n" + "Who?,Me\n" * 3)
    with pytest.raises(DataError) as caught:
        list(read_demonstrations(path, bad=BadRows(skip=True, to=tmp_path / "bad.jsonl")))
    message = str(caught.value)
    assert message.startswith(f"{path}, line 1: found the fields prompt, said; needed prompt + res")
    assert message.count("found") == 1 and "'answer' for response" in message


def test_plain_text_is_told_how_to_be_written(tmp_path: Path) -> None:
    for name, line in (("p.jsonl", "line 1: "), ("p.txt", "")):
        with pytest.raises(DataError, match=rf"{line}.*write .\"text\": \"\.\.\.\". for each"):
            list(read_prompts(write(tmp_path / name, "Write a poem.\n")))


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("open qa", "open_qa"),
        ("Open-QA", "open_qa"),
        ("brainstorm", "brainstorming"),
        ("Summarise", "summarization"),
        ("extraction", "extract"),
        ("Poetry", "Poetry"),  # nobody's guess
        (None, None),
    ],
)
def test_use_cases_are_read_under_their_obvious_names(
    tmp_path: Path, given: str | None, found: str | None
) -> None:
    (prompt,) = read_prompts(write(tmp_path / "p.jsonl", {"text": "a", "use_case": given}))
    assert prompt.use_case == found


def test_a_row_of_another_kind_names_the_shapes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found the fields prompt, ranking, responses; needed pro"):
        list(read_demonstrations(write(tmp_path / "x.jsonl", PAIR)))
    with pytest.raises(DataError, match=r"found list .1, 2.; needed an object"):
        list(read_demonstrations(write(tmp_path / "x.jsonl", [1, 2])))


def test_broken_json_names_the_line(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", {"text": "a"}, '{"text": "b"\n', {"text": "c"})
    # one past the line's last character, where the brace is missing
    with pytest.raises(
        DataError, match=r"p\.jsonl, line 2: found a line .* at column 13 .*} is mis"
    ):
        list(read_prompts(path))
    write(path, '{"text" "b"}\n')
    with pytest.raises(DataError, match=r"line 1: found text that is not JSON .* at column 9"):
        list(read_prompts(path))
    write(path, '{"text": "b\n')
    with pytest.raises(DataError, match=r"line 1: found a line that ends inside .* at column 10;"):
        list(read_prompts(path))
    path = write(tmp_path / "p.jsonl", {"text": "a"}, '{"text": "b"\n', {"text": "c"})
    with pytest.raises(DataError, match=r"p\.json, line 2: not JSON"):
        list(read_prompts(write(tmp_path / "p.json", '[{"text": "a"},\n{"text"]\n')))
    with pytest.raises(DataError, match=r"p\.csv, line 4: found 1 more cells"):
        list(read_prompts(write(tmp_path / "p.csv", 'text\n"a\nb"\nc,d\n')))


def test_twenty_bad_rows_are_listed_then_it_stops(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", *[{"text": ""}] * 30)
    with pytest.raises(DataError) as caught:
        list(read_prompts(path))
    message = str(caught.value)
    assert "the first 20 rows" in message and "lines 1, 2, 3," in message and "20:" in message
    assert ", 21" not in message


def test_skipping_writes_the_bad_rows_down(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", {"text": "a"}, {"text": 5}, "{oops\n", *[{"text": ""}] * 30)
    report = tmp_path / "run" / "bad_rows.jsonl"
    bad = BadRows(skip=True, to=report)
    assert [p.text for p in read_prompts(path, bad=bad)] == ["a"]
    assert [p.text for p in read_prompts(path, bad=bad)] == ["a"]
    rows = [json.loads(line) for line in report.read_text().splitlines()]
    assert bad.num_bad == len(rows) == 32
    assert [row["line"] for row in rows] == list(range(2, 34))
    assert (rows[0]["field"], rows[0]["row"], rows[0]["found"]) == ("text", {"text": 5}, "int 5")
    assert rows[1]["row"] == "{oops"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.jsonl does not exist"):
        list(read_prompts(tmp_path / "nowhere.jsonl"))
    with pytest.raises(DataError, match=r"\*\.jsonl matches no file ending in .jsonl"):
        list(read_prompts(tmp_path / "*.jsonl"))
    with pytest.raises(DataError, match=r"holds no file ending in .jsonl"):
        list(read_prompts(tmp_path))
    with pytest.raises(DataError, match="format is not known by its name"):
        list(read_prompts(write(tmp_path / "a.xlsx", "x")))
    for name in ("e.jsonl", "e.json", "e.csv", "e.jsonl.gz"):
        with pytest.raises(DataError, match=f"{name}: found an empty file"):
            list(read_prompts(write(tmp_path / name, "")))
    cut = write(tmp_path / "cut.jsonl.gz", *[{"text": str(k)} for k in range(5000)])
    cut.write_bytes(cut.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"cut.jsonl.gz: not a whole gzip file"):
        list(read_prompts(cut))
    (tmp_path / "latin.jsonl").write_bytes('{"text": "é"}'.encode("latin-1"))
    with pytest.raises(DataError, match=r"latin.jsonl: not UTF-8"):
        list(read_prompts(tmp_path / "latin.jsonl"))
    with pytest.raises(DataError, match="not a whole Parquet file"):
        list(read_prompts(write(tmp_path / "a.parquet", "nonsense")))


def test_reading_streams(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", {"text": "a"}, {"text": ""})
    assert next(read_prompts(path)).text == "a"


def test_parquet_needs_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "p.parquet")
    assert [p.text for p in read_prompts(tmp_path)] == ["a"]
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"p\.parquet is Parquet.*heedful\[parquet\]"):
        list(read_prompts(tmp_path))


def test_hub_rows_need_the_extra_and_are_read_as_files_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"heedful\[hub\]"):
        list(read_comparisons("hf:owner/name"))
    calls = []

    def load_dataset(*args: Any, **settings: Any) -> list[dict[str, Any]]:
        calls.append((args, settings))
        if settings["split"] == "nosuch":
            raise ValueError("bad split: nosuch")
        return [PAIR, PAIR | {"ranking": [1]}]

    hub = types.SimpleNamespace(load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", hub)
    with pytest.raises(DataError, match="hf:owner/name:small@test, row 2: field 'ranking'"):
        list(read_comparisons("hf:owner/name:small@test"))
    assert calls == [(("owner/name", "small"), {"split": "test", "streaming": True})]
    with pytest.raises(DataError, match=r"@nosuch cannot be loaded .bad split: nosuch"):
        list(read_comparisons("hf:owner/name@nosuch"))
