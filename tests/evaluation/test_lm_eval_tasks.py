"""What the task files for lm-evaluation-harness score, and its samples as rows, without it."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
import yaml

from heedful.errors import ConfigError, DataError, EvaluationError, MissingExtraError
from heedful.evaluation import harness
from heedful.evaluation.harness import (
    OWN_TASKS,
    Asked,
    ask,
    find,
    require_harness,
    rows_of,
    tasks_of,
    write_local_tasks,
)
from heedful.evaluation.lm_eval_tasks.functions import (
    cnn_dm_results,
    drop_results,
    drop_target,
    quac_results,
    quac_turns,
    squad_results,
    wsc_results,
    wsc_text,
)
from heedful.evaluation.suite import measures

# The paper's examples before a question (appendix D, table of tasks).
SHOTS = {
    "squad_v2": 4,
    "drop": 4,
    "quac": 2,
    "hellaswag": 15,
    "rte": 15,
    "sst": 15,
    "wsc": 15,
    "wmt15_fr_en": 15,
    "cnn_dm": 0,
    "tldr": 0,
}


class Loader(yaml.SafeLoader):
    """Reads the harness's files; the name of a function stands for it."""


Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def test_every_task_has_the_papers_shots_and_is_in_the_group():
    files = {p.stem: yaml.load(p.read_text(), Loader) for p in OWN_TASKS.glob("instructgpt_*.yaml")}
    group = files.pop("instructgpt_nlp")
    assert sorted(group["task"]) == sorted(files)
    shots = {name: file.get("num_fewshot", 0) for name, file in files.items()}
    assert shots == {f"instructgpt_{name}": number for name, number in SHOTS.items()}
    assert all(file["task"] == name for name, file in files.items())


def test_answers_are_scored_as_in_our_own_suites():
    doc = {"answers": {"text": ["600 mm", "600 mm"]}, "context": "About 600 mm fall."}
    assert squad_results(doc, ["600 mm"]) == {"f1": 100, "exact": 100}
    # two words of three
    assert squad_results(doc, [" 600 mm rain"]) == {"f1": pytest.approx(80), "exact": 0}
    assert squad_results({**doc, "answers": {"text": []}}, ["Not in background"])["exact"] == 100
    empty = {"number": "", "spans": [], "date": {"day": "", "month": "", "year": ""}}
    drop = {
        "answer": empty | {"number": "5"},
        "validated_answers": {
            "number": ["", ""],
            "spans": [["five goals"], []],
            "date": [empty["date"], {"day": "", "month": "May", "year": "1990"}],
        },
    }
    assert drop_target(drop) == "5"
    assert drop_results(drop, ["5"]) == {"f1": 100, "exact": 100}
    assert drop_results(drop, ["May 1990"]) == {"f1": 100, "exact": 100}
    assert drop_results(drop, ["five"]) == {"f1": 67, "exact": 0}
    pronoun = {
        "text": "The cup fell because it was wet.",
        "span1_text": "The cup",
        "span2_text": "it",
        "span2_index": 4,
        "label": 1,
    }
    assert "because *it* was wet." in wsc_text(pronoun)
    assert wsc_results(pronoun, ["the cup"]) == {"accuracy": 1}
    assert wsc_results(pronoun | {"label": 0}, ["the cup"]) == {"accuracy": 0}
    # ROUGE-L: two words in common, of three and two
    assert cnn_dm_results({"highlights": "red barns"}, ["red old barns"])["rouge_l"] == 0.8


class Rows(list):
    """A data set, as far as the functions need one."""

    @classmethod
    def from_list(cls, rows):
        return cls(rows)


def test_conversations_become_turns():
    doc = {
        "wikipedia_page_title": "Ann",
        "context": "Ann sang. CANNOTANSWER",
        "questions": ["What?", "Why?"],
        "answers": {"texts": [["sang"], ["CANNOTANSWER", "CANNOTANSWER"]]},
        "orig_answers": {"texts": ["sang", "CANNOTANSWER"]},
    }
    first, second = quac_turns(Rows([doc]))
    assert first["text"] == "TITLE: Ann\n\nPARAGRAPH: Ann sang.\n\nQ: What?\n\nA:"
    assert second["text"] == f"{first['text']} sang\n\nQ: Why?\n\nA:"
    assert (first["answer"], second["answer"]) == ("sang", "I don't know.")
    assert quac_results(second, ["I don't know."]) == {"f1": 100}
    assert quac_results({"references": ["red barn", "blue house"]}, ["red barn"]) == {}


def sample(number, metrics, asked, said, filtered="none"):
    return {
        "doc_id": number,
        "target": 0,
        "arguments": {f"gen_args_{i}": {"arg_0": a, "arg_1": b} for i, (a, b) in enumerate(asked)},
        "filtered_resps": said,
        "filter": filtered,
        "metrics": list(metrics),
        **metrics,
    }


MODEL = SimpleNamespace(tok_encode=str.split, max_length=4, max_gen_toks=2)
PAIR = [("one two", " a b"), ("one two", " c d e")]


def test_samples_become_rows_with_every_filter_in_one():
    said = [(-1.0, False), (-2.0, True)]
    generate = [("one two", {"until": ["."]})]
    results = {
        "samples": {
            "first": [sample(0, {"acc": 1.0}, PAIR, said), sample(1, {"acc": 0}, PAIR[:1], said)],
            "second": [
                sample(0, {"exact_match": 0.0}, generate, ["#### 3"], "strict"),
                sample(0, {"exact_match": 1.0}, generate, ["3"], "flexible"),
            ],
        },
        "n-shot": {"first": 2, "second": 5},
        "higher_is_better": {"first": {"acc": True}, "second": {"exact_match": True}},
    }
    asked = Asked("lm_eval:both", {"first": 2, "second": 1})
    rows = rows_of(results, asked, 3, MODEL)
    assert {row["id"] for row in rows} == asked.ids() == {"first/0", "first/1", "second/0"}
    assert rows[0]["choices"] == [" a b", " c d e"] and rows[0]["logprobs"] == [-1.0, -2.0]
    assert [row["variant"] for row in rows] == ["2 shots", "2 shots", "5 shots"]
    assert [row["facts"]["cut"] for row in rows] == [True, False, False]  # 5 words, 4, 2 + 2
    assert rows[2]["response"] == "#### 3"
    assert rows[2]["scores"] == {"exact_match (strict)": 0.0, "exact_match (flexible)": 1.0}
    assert all(row["task"] == "lm_eval:both" and row["seed"] == 3 for row in rows)

    (task,) = tasks_of([row | {"model": "m"} for row in rows] + [{"task": "squad_v2"}])
    found = measures([task], [row | {"model": "m"} for row in rows], ["m"])
    values = {(m.variant, m.metric): (m.interval.value, m.num_items) for m in found}
    assert values == {
        ("2 shots", "acc"): (0.5, 2),
        ("5 shots", "exact_match (strict)"): (0.0, 1),
        ("5 shots", "exact_match (flexible)"): (1.0, 1),
    }


def test_corpus_bleu_has_an_interval_too():
    pairs = [("a b c d e", "a b c d e"), ("a b c d", "a b x y")]
    samples = [
        sample(i, {"bleu": (want, said)}, [("x", {})], [said])
        for i, (want, said) in enumerate(pairs)
    ]
    results = {"samples": {"t": samples}, "n-shot": {}, "higher_is_better": {"t": {"bleu": True}}}
    rows = rows_of(results, Asked("lm_eval:t", {"t": 2}), 0, MODEL)
    found = measures(tasks_of(rows), [row | {"model": "m"} for row in rows], ["m"])
    # matched 7 of 9, 5 of 7, 3 of 5 and 2 of 3 n-grams, of one length
    expected = 100 * (7 / 9 * 5 / 7 * 3 / 5 * 2 / 3) ** 0.25
    assert [m.interval.value for m in found] == pytest.approx([expected])


def test_rows_in_files_take_the_place_of_the_hub(tmp_path):
    place = tmp_path / "data" / "lm_eval" / "arc_easy"
    place.mkdir(parents=True)
    for name in ("test.jsonl", "train.jsonl.gz"):
        (place / name).write_text("")
    index = {"arc_easy": SimpleNamespace(yaml_path="/tasks/arc_easy.yaml")}
    assert write_local_tasks(index, tmp_path / "data", tmp_path / "own") == ["arc_easy"]
    settings = yaml.safe_load((tmp_path / "own" / "arc_easy.yaml").read_text())
    assert settings["include"] == "/tasks/arc_easy.yaml" and settings["dataset_path"] == "json"
    assert settings["dataset_kwargs"]["data_files"] == {
        "test": str(place / "test.jsonl"),
        "train": str(place / "train.jsonl.gz"),
    }
    place.rename(place.parent / "arc_esy")
    with pytest.raises(DataError, match=r"no task 'arc_esy': did you mean 'arc_easy'\?; a folder"):
        write_local_tasks(index, tmp_path / "data", tmp_path / "own")
    assert not list((tmp_path / "own").glob("*.yaml"))  # nothing of the run before


def test_unknown_names_give_the_near_ones_and_data_that_is_not_there_its_place():
    def load(names):
        raise ConnectionError("Couldn't reach the hub\nmore")

    manager = SimpleNamespace(all_tasks=["gsm8k", "mmlu"], load=load)
    with pytest.raises(ConfigError, match="no task 'gsm8': did you mean 'gsm8k'"):
        find(manager, ["lm_eval:gsm8"], None)
    with pytest.raises(DataError, match=r"reach the hub\): .* lm_eval/gsm8k/<split>.jsonl"):
        find(manager, ["lm_eval:gsm8k"], None)
    manager.load = lambda names: {"tasks": {"a": SimpleNamespace(eval_docs=[1, 2, 3])}}
    assert find(manager, ["lm_eval:mmlu"], 2) == [Asked("lm_eval:mmlu", {"a": 2})]


def test_a_missing_harness_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'heedful\[harness\]'"):
        require_harness()


def test_where_memory_runs_out_the_harness_asks_half_as_many(monkeypatch):
    with pytest.raises(RuntimeError) as failed:
        torch.empty(2**55, dtype=torch.uint8)
    model = SimpleNamespace(batch_size=8, batch_size_per_gpu=8, **vars(MODEL))
    sizes = []

    def evaluate(**given):
        sizes.append(model.batch_size_per_gpu)
        if model.batch_size_per_gpu > limit:
            raise failed.value
        return {"samples": {}, "n-shot": {}, "higher_is_better": {}}

    monkeypatch.setattr(
        harness, "require_harness", lambda: SimpleNamespace(simple_evaluate=evaluate)
    )
    asked, limit = Asked("lm_eval:t", {"t": 1}), 2
    assert ask(None, asked, model, shots=0, limit=None, seed=0) == []
    assert sizes == [8, 4, 2]
    limit = 0
    with pytest.raises(EvaluationError, match="memory ran out on a single item"):
        ask(None, asked, model, shots=0, limit=None, seed=0)
