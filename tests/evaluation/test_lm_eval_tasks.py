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
    Part,
    ask,
    find,
    require_harness,
    rows_of,
    tasks_of,
    write_local_tasks,
)
from heedful.evaluation.harness_groups import GroupMean, group_tasks
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
    assert "aggregate_metric_list" not in group  # F1, accuracy and BLEU have no common mean


def test_rows_of_one_text_belong_together():
    shared = {}
    for path in OWN_TASKS.glob("instructgpt_*.yaml"):
        described = yaml.load(path.read_text(), Loader).get("metadata", {})
        shared[path.stem.removeprefix("instructgpt_")] = described.get("cluster")
    assert {name: field for name, field in shared.items() if field} == {
        "squad_v2": "context",
        "drop": "passage",
        "quac": "background",
        "wsc": "text",
        "hellaswag": "ctx",
        "rte": "premise",
    }


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
    assert first["background"] == second["background"] == "Ann sang."
    assert quac_results(second, ["I don't know."]) == {"f1": 100}
    assert quac_results({"references": ["red barn", "blue house"]}, ["red barn"]) == {}


def sample(number, metrics, asked, said, filtered="none", **doc):
    return {
        "doc_id": number,
        "doc": doc,
        "target": 0,
        "arguments": {f"gen_args_{i}": {"arg_0": a, "arg_1": b} for i, (a, b) in enumerate(asked)},
        "filtered_resps": said,
        "filter": filtered,
        "metrics": list(metrics),
        **metrics,
    }


MODEL = SimpleNamespace(tok_encode=str.split, max_length=4, max_gen_toks=2)
PAIR = [("one two", " a b"), ("one two", " c d e")]
GENERATE = [("one two", {"until": ["."]})]


def measured(rows, groups=()):
    """{(task, variant, measure): (value, items)} of one model's rows."""
    rows = [row | {"model": "m"} for row in rows]
    tasks, more = group_tasks(rows, dict(groups))
    found = measures([*tasks_of(rows), *tasks], [*rows, *more], ["m"])
    return {(m.task, m.variant, m.metric): (m.interval.value, m.num_items) for m in found}


def test_samples_become_rows_with_every_filter_in_one():
    said = [(-1.0, False), (-2.0, True)]
    results = {
        "samples": {
            "first": [sample(0, {"acc": 1.0}, PAIR, said), sample(1, {"acc": 0}, PAIR[:1], said)],
            "second": [
                sample(0, {"exact_match": 0.0}, GENERATE, ["#### 3"], "strict"),
                sample(0, {"exact_match": 1.0}, GENERATE, ["3"], "flexible"),
            ],
        },
        "n-shot": {"first": 2, "second": 5},
        "higher_is_better": {"first": {"acc": True}, "second": {"exact_match": True}},
    }
    parts = {"first": Part(2, {"acc": True}), "second": Part(1, {"exact_match": True})}
    asked = Asked("lm_eval:both", parts, {})
    rows = rows_of(results, asked, 3, MODEL)
    assert [(row["task"], row["id"]) for row in rows] == [
        ("lm_eval:first", "0"),
        ("lm_eval:first", "1"),
        ("lm_eval:second", "0"),
    ]
    assert {(row["task"], row["id"]) for row in rows} == asked.row_keys()
    assert rows[0]["choices"] == [" a b", " c d e"] and rows[0]["logprobs"] == [-1.0, -2.0]
    assert [row["variant"] for row in rows] == ["2 shots", "2 shots", "5 shots"]
    assert [row["facts"]["cut"] for row in rows] == [True, False, False]  # 5 words, 4, 2 + 2
    assert rows[2]["response"] == "#### 3"
    assert rows[2]["scores"] == {"exact_match (strict)": 0.0, "exact_match (flexible)": 1.0}
    assert all(row["seed"] == 3 for row in rows)
    assert len(tasks_of([*rows, {"task": "squad_v2"}])) == 2
    assert measured(rows) == {
        ("lm_eval:first", "2 shots", "acc"): (0.5, 2),
        ("lm_eval:second", "5 shots", "exact_match (strict)"): (0.0, 1),
        ("lm_eval:second", "5 shots", "exact_match (flexible)"): (1.0, 1),
    }


def scored(task, values, measure="f1", filtered="none"):
    """Samples of a task with these scores."""
    return {
        "samples": {
            task: [
                sample(i, {measure: value}, GENERATE, ["a"], filtered)
                for i, value in enumerate(values)
            ]
        },
        "n-shot": {task: 4},
        "higher_is_better": {task: {measure: True}},
    }


def both(first, second):
    """The results of two tasks."""
    return {key: first[key] | second[key] for key in first}


def test_scores_of_different_data_sets_are_not_pooled():
    results = both(scored("squad", [80.0] * 10), scored("drop", [20.0] * 30))
    parts = {"squad": Part(10, {"f1": True}), "drop": Part(30, {"f1": True})}
    rows = rows_of(results, Asked("lm_eval:all", parts, {}), 0, MODEL)
    assert measured(rows) == {
        ("lm_eval:squad", "4 shots", "f1"): (80, 10),
        ("lm_eval:drop", "4 shots", "f1"): (20, 30),
    }


@pytest.mark.parametrize(
    ("by_size", "filters", "expected"),
    [
        (True, ["strict"], 35),  # (10 * 80 + 30 * 20) / 40
        (False, ["strict"], 50),  # (80 + 20) / 2
        (True, None, 35),
        (True, ["none"], None),  # no such filter
    ],
)
def test_a_group_has_the_mean_that_the_harness_defines(by_size, filters, expected):
    first, second = (
        scored("a", [80.0] * 10, filtered="strict"),
        scored("b", [20.0] * 30, filtered="strict"),
    )
    tasks = ["lm_eval:a", "lm_eval:b"]
    groups = {"lm_eval:both": [GroupMean("f1", filters, by_size, tasks)]}
    parts = {"a": Part(10, {"f1": True}), "b": Part(30, {"f1": True})}
    rows = rows_of(both(first, second), Asked("lm_eval:both", parts, groups), 0, MODEL)
    found = measured(rows, groups)
    assert len(found) == (2 if expected is None else 3)
    if expected is not None:
        assert found["lm_eval:both", "4 shots", "f1 (strict)"] == (pytest.approx(expected), 40)
    # a model that has rows of one task alone has no such mean
    assert list(measured(rows[:10], groups)) == [("lm_eval:a", "4 shots", "f1 (strict)")]


def test_questions_about_one_text_are_drawn_together():
    texts = ["red", "red", "blue"]
    samples = [
        sample(i, {"f1": 1.0}, GENERATE, ["a"], background=text) for i, text in enumerate(texts)
    ]
    results = {"samples": {"t": samples}, "n-shot": {}, "higher_is_better": {}}
    part = Part(3, {"f1": True}, "background")
    first, second, third = rows_of(results, Asked("lm_eval:t", {"t": part}, {}), 0, MODEL)
    assert first["cluster"] == second["cluster"] != third["cluster"]
    part = Part(3, {"f1": True})
    rows = rows_of(results, Asked("lm_eval:t", {"t": part}, {}), 0, MODEL)
    assert [row["cluster"] for row in rows] == ["0", "1", "2"]


def test_measures_that_are_no_means_are_left_out():
    metrics = {"perplexity": -3.2, "acc": 1, "word_perplexity": (-3.2, 7)}
    results = {
        "samples": {"t": [sample(0, metrics, PAIR, [(-1.0, False)])]},
        "n-shot": {},
        "higher_is_better": {"t": {"perplexity": False, "acc": True}},
    }
    part = Part(1, {"perplexity": False, "acc": True, "word_perplexity": False})
    (row,) = rows_of(results, Asked("lm_eval:t", {"t": part}, {}), 0, MODEL)
    assert row["scores"] == {"acc": 1.0}
    assert row["facts"]["higher_is_better"] == {"acc": True}
    # what the task does not list comes from what it lists
    assert Part(1, {"pass_at_k": True}).keeps("pass@1")
    assert not part.keeps("other")


def test_corpus_bleu_has_an_interval_too():
    pairs = [("a b c d e", "a b c d e"), ("a b c d", "a b x y")]
    samples = [
        sample(i, {"bleu": (want, said)}, [("x", {})], [said])
        for i, (want, said) in enumerate(pairs)
    ]
    results = {"samples": {"t": samples}, "n-shot": {}, "higher_is_better": {"t": {"bleu": True}}}
    rows = rows_of(results, Asked("lm_eval:t", {"t": Part(2, {"bleu": True})}, {}), 0, MODEL)
    # matched 7 of 9, 5 of 7, 3 of 5 and 2 of 3 n-grams, of one length
    expected = 100 * (7 / 9 * 5 / 7 * 3 / 5 * 2 / 3) ** 0.25
    assert list(measured(rows).values()) == [(pytest.approx(expected), 2)]


def test_rows_in_files_take_the_place_of_the_hub(tmp_path, capsys):
    place = tmp_path / "data" / "lm_eval" / "arc_easy"
    place.mkdir(parents=True)
    for name in ("test.jsonl", "train.jsonl.gz"):
        (place / name).write_text("")
    index = {"arc_easy": SimpleNamespace(yaml_path="/tasks/arc_easy.yaml")}
    where, asked = (tmp_path / "data", tmp_path / "own"), ["lm_eval:arc_easy"]
    assert write_local_tasks(index, *where, asked) == ["arc_easy"]
    settings = yaml.safe_load((tmp_path / "own" / "arc_easy.yaml").read_text())
    assert settings["include"] == "/tasks/arc_easy.yaml" and settings["dataset_path"] == "json"
    assert settings["dataset_kwargs"]["data_files"] == {
        "test": str(place / "test.jsonl"),
        "train": str(place / "train.jsonl.gz"),
    }
    assert capsys.readouterr().err == ""
    # what is no folder of rows is left aside
    (place.parent / "README.md").write_text("")
    (place.parent / ".cache").mkdir()
    (place / ".DS_Store").write_text("")
    (place.parent / "arc_esy").mkdir()
    assert write_local_tasks(index, *where, ["lm_eval:gsm8k"]) == ["arc_easy"]
    assert yaml.safe_load((tmp_path / "own" / "arc_easy.yaml").read_text()) == settings
    said = capsys.readouterr().err
    assert said.count("left out: ") == 1 and "'arc_esy': did you mean 'arc_easy'?" in said
    for path in place.glob("*.jsonl*"):
        path.unlink()
    assert write_local_tasks(index, *where, ["lm_eval:gsm8k"]) == []
    with pytest.raises(DataError, match="arc_easy has no rows: a file for each split"):
        write_local_tasks(index, *where, asked)
    assert not list((tmp_path / "own").glob("*.yaml"))  # nothing of the run before


def test_unknown_names_give_the_near_ones_and_data_that_is_not_there_its_place():
    def load(names):
        raise ConnectionError("Couldn't reach the hub\nmore")

    manager = SimpleNamespace(all_tasks=["gsm8k", "mmlu"], load=load)
    with pytest.raises(ConfigError, match="no task 'gsm8': did you mean 'gsm8k'"):
        find(manager, ["lm_eval:gsm8"], None)
    with pytest.raises(DataError, match=r"reach the hub\): .* lm_eval/gsm8k/<split>.jsonl"):
        find(manager, ["lm_eval:gsm8k"], None)


def aggregation(name, module="lm_eval.api.metrics"):
    """A function of the harness, or of a task, as far as its name tells."""
    function = lambda scores: 0  # noqa: E731
    function.__name__, function.__module__ = name, module
    return function


def fake_task(name="a", output_type="multiple_choice", metadata=None, **measures):
    return SimpleNamespace(
        task_name=name,
        OUTPUT_TYPE=output_type,
        eval_docs=[{"question": "?"}] * 3,
        config=SimpleNamespace(metadata=metadata),
        aggregation=lambda: measures,
    )


def manager_of(task, **groups):
    loaded = {"tasks": {task.task_name: task}, "groups": groups, "group_map": {}}
    return SimpleNamespace(all_tasks=["mmlu", "a"], load=lambda names: loaded)


MEAN = aggregation("mean")


def test_what_is_asked_is_known_before():
    task = fake_task(
        metadata={"version": 1, "cluster": "question"},
        acc=MEAN,
        perplexity=aggregation("perplexity"),
        score=aggregation("mean", "utils"),
        bleu=aggregation("bleu"),
    )
    mean = SimpleNamespace(metric="acc", filter_list=["none"], weight_by_size=False)
    group = SimpleNamespace(aggregate_metric_list=[mean], get_all_tasks=lambda: [task])
    plain = SimpleNamespace(aggregate_metric_list=None)
    (asked,) = find(manager_of(task, mmlu=group, plain=plain), ["lm_eval:mmlu"], 2)
    means = {"acc": True, "perplexity": False, "score": False, "bleu": True}
    groups = {"lm_eval:mmlu": [GroupMean("acc", ["none"], False, ["lm_eval:a"])]}
    assert asked == Asked("lm_eval:mmlu", {"a": Part(2, means, "question")}, groups)
    assert asked.row_keys() == {("lm_eval:a", "0"), ("lm_eval:a", "1")}


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (
            fake_task(output_type="loglikelihood_rolling", acc=MEAN),
            "lm_eval:a measures the probability of whole texts",
        ),
        (
            fake_task(perplexity=aggregation("perplexity"), ter=aggregation("ter")),
            r"lm_eval:a has no measure that is a mean .* \(it has perplexity, ter\)",
        ),
        (
            fake_task(metadata={"cluster": "text"}, acc=MEAN),
            "lm_eval:a: metadata.cluster of its task file is 'text'; its rows have question",
        ),
    ],
)
def test_a_task_that_makes_no_rows_is_refused_before_it_is_asked(task, said):
    with pytest.raises(ConfigError, match=said):
        find(manager_of(task), ["lm_eval:a"], None)
    with pytest.raises(ConfigError, match=said.replace("lm_eval:a", "lm_eval:mmlu, task a", 1)):
        find(manager_of(task), ["lm_eval:mmlu"], None)


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
    asked, limit = Asked("lm_eval:t", {"t": Part(1, {})}, {}), 2
    assert ask(None, asked, model, shots=0, limit=None, seed=0) == []
    assert sizes == [8, 4, 2]
    limit = 0
    with pytest.raises(EvaluationError, match="memory ran out on a single item"):
        ask(None, asked, model, shots=0, limit=None, seed=0)
