"""heed prompts: what is written, what is dropped and why, and the counts."""

from __future__ import annotations

import argparse
import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from heedful.cli import main
from heedful.commands.prompts import run_import
from heedful.data.formats import read_prompts

PROMPTS: list[dict[str, Any]] = [
    *({"text": f"{i} is the number that I want a poem about", "user": f"u{i}"} for i in range(20)),
    {"text": "0 is the number that I want a poem about, and a long one", "user": "u99"},
    {"text": "   \n"},
    *({"text": f"{chr(97 + i)} begins which word of French?", "user": "heavy"} for i in range(5)),
]


@pytest.fixture
def files(tmp_path) -> tuple[Path, Path]:
    """(prompts to read, file to write)."""
    path = tmp_path / "logs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PROMPTS[:21] + PROMPTS[22:]))
    return path, tmp_path / "out" / "prompts.jsonl"


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_import_writes_clean_prompts_and_says_what_was_dropped(files, capsys):
    path, out = files
    words = ["--cap", "3", "--valid", "0.2", "--test", "0.2", "--seed", "4"]
    assert main(["prompts", "import", str(path), "--out", str(out), *words]) == 0
    rows = read(out)
    assert len(rows) == 23  # 26 less a near-duplicate and 2 over the cap
    assert sum(row["user"] == "heavy" for row in rows) == 3
    assert len({row["split"] for row in rows if row["user"] == "heavy"}) == 1
    said = capsys.readouterr().out
    for name, count in (("near-duplicate", "-1"), ("over the user's cap", "-2"), ("kept", "23")):
        assert any(name in line and count in line for line in said.splitlines()), name
    # 2 of 26 and 1 of 26 rows, with the sign of their counts
    assert "-7.7%" in said and "-3.8%" in said
    assert not list(out.parent.glob("*.partial"))


def test_the_same_seed_writes_the_same_file(files):
    path, out = files
    texts = []
    for number, seed in enumerate(("1", "1", "2")):
        to = out.with_name(f"{number}.jsonl")
        assert main(["prompts", "import", str(path), "--out", str(to), "--seed", seed]) == 0
        texts.append(to.read_text(encoding="utf-8"))
    assert texts[0] == texts[1] != texts[2]


def test_what_is_there_is_not_overwritten_unasked(files, capsys):
    path, out = files
    out.parent.mkdir()
    out.write_text("precious\n", encoding="utf-8")
    assert main(["prompts", "import", str(path), "--out", str(out)]) != 0
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_text(encoding="utf-8") == "precious\n"
    assert [file.name for file in out.parent.iterdir()] == ["prompts.jsonl"]
    given = argparse.Namespace(
        files=[str(path)], out=out, skip_bad_rows=False, cap=200, valid=0.1, test=0.1, seed=0,
        languages=None, overwrite=True,
    )  # fmt: skip
    assert run_import(given) == 0
    assert len(read(out)) == 25


def test_every_dropped_row_is_named_with_its_place_and_reason(tmp_path, capsys):
    texts = [
        "Describe a bakery in the old town.",
        "describe a bakery in the old town!",
        "Reach me at ann@example.com about the bakery",
        "Name a river",
        "Name a mountain",
    ]
    path, out = tmp_path / "logs.jsonl", tmp_path / "data" / "p.jsonl"
    rows = [{"id": f"r{k}", "text": text, "user": "u"} for k, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["--out", str(out), "--cap", "3", "--valid", "0", "--test", "0"]
    assert main(["prompts", "import", str(path), *words]) == 0
    found = read(out.with_name("p.dropped.jsonl"))
    assert {row["file"] for row in found} == {str(path)}
    assert [(row["line"], row["id"], row["reason"]) for row in found] == [
        (2, "r1", f"near-duplicate of {path}, line 1"),
        (3, "r2", "personal data: email"),
        (5, "r4", "over the user's cap"),
    ]
    assert "ann@example.com" not in out.with_name("p.dropped.jsonl").read_text(encoding="utf-8")
    assert "p.dropped.jsonl" in capsys.readouterr().out.replace("\n", "")
    # what was dropped is not data: the folder is read without it
    assert [row["id"] for row in read(out)] == [p.id for p in read_prompts(out.parent)]


def test_bad_rows_stop_the_import_or_are_written_down(files, capsys):
    path, out = files
    with path.open("a", encoding="utf-8") as file:
        file.write("not json\n")
    assert main(["prompts", "import", str(path), "--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert "line 27" in said and "give --skip-bad-rows to go on" in said
    assert not out.exists()
    assert main(["prompts", "import", str(path), "--out", str(out), "--skip-bad-rows"]) == 0
    assert read(out.parent / "bad_rows.jsonl")[0]["line"] == 27


def test_a_row_that_names_its_split_keeps_it(tmp_path, files):
    """Cleaning goes by that split too: personal data is dropped from training alone."""
    path, out = files
    splits = ["train", "valid", "test"]
    rows = [
        {"text": f"{chr(97 + i)} is a letter; name another one", "split": splits[i % 3]}
        | ({"user": "one"} if i < 9 else {})
        for i in range(24)
    ]
    rows += [
        {"text": f"{split} it: my address is someone@mail.example.org", "split": split}
        for split in splits
    ]
    named = tmp_path / "named.jsonl"
    named.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["--valid", "0.2", "--test", "0.2", "--seed", "4"]
    assert main(["prompts", "import", str(path), "--out", str(out), *words]) == 0
    alone = {row["id"]: row["split"] for row in read(out)}
    out = out.with_name("both.jsonl")
    assert main(["prompts", "import", str(path), str(named), "--out", str(out), *words]) == 0
    found = {row["text"]: row["split"] for row in read(out)}
    expected = {row["text"]: row["split"] for row in rows}
    del expected["train it: my address is someone@mail.example.org"]
    assert {text: found.get(text) for text in expected} == expected
    assert not any("train it" in text for text in found)
    # rows that name none go as they do alone
    assert {row["id"]: row["split"] for row in read(out) if row["id"] in alone} == alone
    assert len(set(alone.values())) == 3


def test_a_users_rows_follow_the_one_that_names_a_split(files, capsys):
    """What names no split would go by the user's name: all 20 users of this file into training."""
    path, out = files
    rows = [
        {"text": "What does a mill do?", "user": "u3", "split": "test"},
        {"text": "Why is hay dry?", "user": "u3"},
    ]
    words = ["prompts", "import", str(path), "--out", str(out), "--valid", "0", "--test", "0"]
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    assert main(words) == 0
    found = [(row["user"], row["split"]) for row in read(out)]
    assert [split for user, split in found if user == "u3"] == ["test"] * 3
    assert {split for user, split in found if user != "u3"} == {"train"}
    assert "warning" not in capsys.readouterr().err
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"text": "Is tea old?", "user": "u3", "split": "valid"}) + "\n")
    out.unlink()
    assert main(words) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "1 prompt is in another split than the first of the same user" in said


def test_a_row_that_says_train_is_named_and_files_are_read_once(files, monkeypatch):
    """The split in training is named by a row or comes of naming none: the reader tells them."""
    path, out = files
    rows = [
        {"text": f"How tall is tree {i}?", "split": "train"} | ({"user": "u1"} if i else {})
        for i in range(2)
    ]
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    opened = []
    before = builtins.open

    def opening(file, *arguments, **options):
        opened.append(str(file))
        return before(file, *arguments, **options)

    monkeypatch.setattr(builtins, "open", opening)
    words = ["--valid", "0", "--test", "1"]
    assert main(["prompts", "import", str(path), "--out", str(out), *words]) == 0
    assert opened.count(str(path)) == 1
    trained = [row for row in read(out) if row["split"] == "train"]
    assert [row.get("user") for row in trained] == ["u1", None, "u1"]


def test_a_bad_row_counts_once(files, capsys):
    path, out = files
    with path.open("a", encoding="utf-8") as file:
        file.write("not json\n")
    assert main(["prompts", "import", str(path), "--out", str(out), "--skip-bad-rows"]) == 0
    said = capsys.readouterr().out
    assert any("cannot be read" in line and "-1" in line for line in said.splitlines())
    assert len(read(out.parent / "bad_rows.jsonl")) == 1


def test_a_use_case_that_is_none_of_the_ten_is_named_with_the_nearest(tmp_path, capsys):
    path = tmp_path / "p.jsonl"
    names = ["brainstrom", "brainstrom", "Poetry", "open qa"]
    rows = [{"text": f"{k} is a prompt", "use_case": name} for k, name in enumerate(names)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert main(["prompts", "stats", str(path)]) == 0
    out, said = capsys.readouterr()
    first, second = said.splitlines()
    assert first.startswith("warning: use case 'brainstrom' (2 prompts) is none of the paper's")
    assert first.endswith("did you mean 'brainstorming'?")
    assert "'Poetry' (1 prompt)" in second and "they are generation, open_qa," in second
    assert "shares of the prompts that name one" in " ".join(out.split())
    assert out.splitlines()[-1] == "counted 4 prompts of 1 file"


def test_stats_of_other_files_say_what_they_are(tmp_path, capsys):
    path = tmp_path / "c.jsonl"
    for row, kind in (
        ({"prompt": "Who?", "chosen": "Me", "rejected": "You"}, "rankings"),
        ({"prompt": "Who?", "response": "Me"}, "demonstrations"),
        ({"text": "Who?"}, ""),
    ):
        path.write_text(json.dumps(row) + "\n", encoding="utf-8")
        assert main(["prompts", "stats", str(path)]) == 0
        out, said = capsys.readouterr()
        assert said.startswith(f"warning: {path} holds {kind}") if kind else said == ""
        assert out.splitlines()[-1] == "counted 1 prompt of 1 file"


def test_nothing_left_is_an_error(files, capsys):
    path, out = files
    words = ["--languages", "xx"]
    assert main(["prompts", "import", str(path), "--out", str(out), *words]) == 1
    assert "prompts is left" in capsys.readouterr().err


def test_stats_count_by_split_source_and_use_case(tmp_path, capsys):
    path = tmp_path / "p.jsonl"
    rows = [
        {"text": "one two", "source": "labeler", "split": "train", "use_case": "chat"},
        {"text": "three", "split": "train", "use_case": "chat", "user": "a"},
        {"text": "four", "split": "valid", "user": "b"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert main(["prompts", "stats", str(path)]) == 0
    lines = capsys.readouterr().out.replace("│", " ").splitlines()
    found = {cells[0]: cells[1:] for cells in map(str.split, lines) if cells}
    assert found["all"] == ["1", "2", "3", "2"]  # labeler, api, all, users
    assert found["chat"] == ["2", "100.0%", "8.4", "%"]
    assert found["valid"] == ["1", "4", "4", "4", "4", "4", "4"]  # the table of lengths comes last
