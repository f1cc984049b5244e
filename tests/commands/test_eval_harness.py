"""heed eval nlp with tasks of lm-evaluation-harness itself, a tiny model and rows in files."""

from __future__ import annotations

import json
import warnings

import pytest

from heedful.cli import main
from heedful.evaluation.harness import OWN_TASKS
from heedful.training.checkpoint import publish

# A row of every data set in the form of the hub, and how it stands in a prompt.
EMPTY = {"number": "", "date": {"day": "", "month": "", "year": ""}, "spans": []}
DROP = {
    "query_id": "q",
    "passage": "Two goals, then three.",
    "question": "How many?",
    "answer": EMPTY | {"number": "5"},
    "validated_answers": {"number": [""], "date": [EMPTY["date"]], "spans": [["five"]]},
}
QUAC = {
    "wikipedia_page_title": "Ann",
    "context": "Ann sang. CANNOTANSWER",
    "questions": ["What?"],
    "answers": {"texts": [["sang"]]},
    "orig_answers": {"texts": ["sang"]},
}
SQUAD = {
    "title": "New_York",
    "context": "It is big.",
    "question": "How big?",
    "answers": {"text": [], "answer_start": []},
}
WSC = {
    "text": "The cup fell because it was wet.",
    "span1_text": "The cup",
    "span2_text": "it",
    "span2_index": 4,
    "label": 1,
}
ROWS = {
    "squad_v2": (
        SQUAD,
        "Title: New York\n\nBackground: It is big.\n\nQ: How big?\n\nA:",
        "Not in background.",
    ),
    "drop": (DROP, "Passage: Two goals, then three.\nQuestion: How many?\nAnswer:", "5"),
    "quac": (QUAC, "TITLE: Ann\n\nPARAGRAPH: Ann sang.\n\nQ: What?\n\nA:", "sang"),
    "hellaswag": ({"ctx": "She lifts", "endings": ["a", "b"], "label": "1"}, "She lifts", "b"),
    "rte": (
        {"premise": "Ann met Bo.", "hypothesis": "Bo met Ann.", "label": 0},
        "Passage: Ann met Bo.\nQuestion: From this passage can one reasonably conclude that "
        "Bo met Ann?\nAnswer:",
        "Yes",
    ),
    "sst": ({"sentence": "fine . ", "label": 1}, "Text: fine .\nLabel:", "positive"),
    "wsc": (
        WSC,
        "Passage: The cup fell because *it* was wet.\nQuestion: In the passage above, what does "
        'the pronoun "*it*" refer to?\nAnswer:',
        "The cup",
    ),
    "wmt15_fr_en": (
        {"translation": {"fr": "Un chat.", "en": "A cat."}},
        "French: Un chat.\nEnglish:",
        "A cat.",
    ),
    "cnn_dm": ({"article": "Long.", "highlights": "Short."}, "Long.\n\nTL;DR:", "Short."),
    "tldr": ({"prompt": "POST: a\n\nTL;DR:", "completion": " b"}, "POST: a\n\nTL;DR:", "b"),
}
BEGINNINGS = {
    "squad_v2": "Answer each question using information in the preceding background paragraph.\n"
    'If there is not enough information provided, answer with "Not in background."\n\n',
    "quac": "Answer each question using information in the preceding background paragraph.\n"
    'If there is not enough information provided, answer with "I don\'t know."\n\n',
    "drop": "Answer each question using information in the preceding passage.\n\n",
    "hellaswag": "Complete each independent paragraph using common-sense reasoning.\n\n",
    "sst": "For each snippet of text, label the sentiment of the text as positive or negative.\n\n",
    "wsc": "Final Exam with Answer Key\nInstructions: Please carefully read the following "
    "passages. For each passage, you must identify which noun the pronoun marked in bold refers "
    "to.\n\n",
    "wmt15_fr_en": "Translate the following sentences from French into English.\n\n",
}
OWN_TASK = """
task: counting
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{asked}}"
doc_to_choice: ["w5", "w6"]
doc_to_target: "{{right}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
# Two tasks whose rows say what they score, and groups of them.
GIVEN = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{asked}}}}"
doc_to_choice: ["w5", "w6"]
doc_to_target: 0
process_results: !function given.results
metric_list:
  - {{metric: f1, aggregation: mean, higher_is_better: true}}
  - {{metric: perplexity, aggregation: perplexity, higher_is_better: false}}
metadata: {{version: 1, cluster: about}}
"""
GROUPS = {
    "plain": "",
    "by_size": "aggregate_metric_list: [{metric: f1}]",
    "by_task": "aggregate_metric_list: [{metric: f1, weight_by_size: false}]",
}
ROLLING = """
task: rolling
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{asked}}"
metric_list: [{metric: word_perplexity}]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model, tokenizer):
    """A model, two rows of every data set in every split, and a task file of one's own."""
    path = tmp_path_factory.mktemp("harness")
    model = tiny_model(max_position_embeddings=512)
    publish(model, tokenizer, path / "base" / "model", {})
    for name, (row, _, _) in ROWS.items():
        folder = path / "data" / "lm_eval" / f"instructgpt_{name}"
        folder.mkdir(parents=True)
        for split in ("train", "validation", "test"):
            (folder / f"{split}.jsonl").write_text(2 * (json.dumps(row) + "\n"))
    (path / "own").mkdir()
    rows = [{"asked": f"w{i}", "right": i % 2} for i in range(6)]
    (path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "own" / "counting.yaml").write_text(OWN_TASK % (path / "rows.jsonl"))
    write_given(path)
    return path


def write_given(path):
    """Two rows that score 80 and six that score 20, two of one text each, in three groups."""
    (path / "own" / "given.py").write_text(
        "def results(doc, results):\n    return {'f1': doc['score'], 'perplexity': -3.2}\n"
    )
    for name, number, score in (("first", 2, 80.0), ("second", 6, 20.0)):
        rows = path / f"{name}.jsonl"
        lines = [{"asked": f"w{i}", "score": score, "about": f"w{i // 2}"} for i in range(number)]
        rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
        (path / "own" / f"{name}.yaml").write_text(GIVEN.format(name=name, rows=rows))
    for name, means in GROUPS.items():
        text = f"group: {name}\ntask: [first, second]\n{means}\n"
        (path / "own" / f"{name}.yaml").write_text(text)
    (path / "own" / "rolling.yaml").write_text(ROLLING % (path / "first.jsonl"))


@pytest.fixture
def heed(place, monkeypatch):
    """Runs heed eval nlp and gives its rows and summary."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(place / "hub"))

    def run(run_dir, *words):
        asked = ["eval", "nlp", "--model", f"base={place / 'base' / 'model'}"]
        asked += ["--data", str(place / "data"), "--run-dir", str(run_dir)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the harness and what it brings
            status = main([*asked, *words])
        if status:
            return status
        rows = (run_dir / "eval" / "nlp.jsonl").read_text().splitlines()
        summary = json.loads((run_dir / "eval" / "nlp.json").read_text())
        return [json.loads(row) for row in rows], summary

    return run


def test_the_papers_tasks_are_asked_with_its_prompts(heed, tmp_path):
    names = [f"lm_eval:instructgpt_{name}" for name in ROWS]
    rows, summary = heed(tmp_path, f"--tasks={','.join(names)}", "--shots=1", "--limit=1")
    assert [row["task"] for row in rows] == names
    for (name, (_, text, answer)), row in zip(ROWS.items(), rows, strict=True):
        expected = f"{BEGINNINGS.get(name, '')}{text} {answer}\n\n{text}"
        assert (name, row["prompt"]) == (name, expected)
        assert row["variant"] == "1 shots" and row["model"] == "base"
    by_name = {row["task"].removeprefix("lm_eval:instructgpt_"): row for row in rows}
    assert by_name["rte"]["choices"] == [" Yes", " No"]
    assert by_name["squad_v2"]["scores"] == {"f1": 0.0, "exact": 0.0}
    assert summary["lm_eval"] is not None
    measured = {m["task"].removeprefix("lm_eval:instructgpt_") for m in summary["measures"]}
    assert measured == set(ROWS)


def test_what_the_harness_cuts_or_refuses_is_said(heed, place, tiny_model, tokenizer, capsys):
    publish(tiny_model(), tokenizer, place / "short" / "model", {})
    model = ["--model", f"short={place / 'short' / 'model'}", "--limit=1", "--shots=1"]
    names = [f"lm_eval:instructgpt_{name}" for name in ("wsc", "wmt15_fr_en")]
    assert heed(place / "run", f"--tasks={','.join(names)}", *model) == 1
    said = capsys.readouterr().err
    assert "instructgpt_wsc: 1 of 1 prompts are longer than the 64 tokens" in said
    assert "instructgpt_wmt15_fr_en: lm-evaluation-harness says:" in said and "(128)" in said
    rows = (place / "run" / "eval" / "nlp.jsonl").read_text().splitlines()
    kept = [json.loads(row) for row in rows if '"short"' in row]
    assert [(row["task"], row["facts"]["cut"]) for row in kept] == [(names[0], True)]


def test_a_task_of_ones_own_is_kept_and_gone_on_with(heed, place, tmp_path, capsys):
    words = ["--tasks=lm_eval:counting", f"--task_files={place / 'own'}"]
    rows, _ = heed(tmp_path, *words, "--limit=3")
    more, summary = heed(tmp_path, *words)
    assert more[:3] == rows and [row["id"] for row in more] == list("012345")
    right = [row["logprobs"][i % 2] > row["logprobs"][1 - i % 2] for i, row in enumerate(more)]
    assert [row["scores"]["acc"] for row in more] == [float(value) for value in right]
    (measure,) = summary["measures"]
    assert measure["interval"]["value"] == pytest.approx(sum(right) / 6)
    again, _ = heed(tmp_path, *words)
    assert again == more
    capsys.readouterr()
    assert heed(tmp_path, *words, "--rescore") == 2
    assert "has scored its rows itself" in capsys.readouterr().err
    assert heed(tmp_path, "--tasks=lm_eval:countin", f"--task_files={place / 'own'}") == 2
    assert "did you mean 'counting'" in capsys.readouterr().err


def test_a_group_has_the_measures_of_its_tasks_and_the_means_that_it_defines(
    heed, place, tmp_path, capsys
):
    words = [f"--task_files={place / 'own'}"]
    rows, summary = heed(tmp_path, "--tasks=lm_eval:plain", *words)
    of_tasks = {("lm_eval:first", "f1"): (80, 2), ("lm_eval:second", "f1"): (20, 6)}
    assert values(summary) == of_tasks
    assert len({row["cluster"] for row in rows}) == 3  # of eight rows
    table = capsys.readouterr().out
    assert "perplexity" not in table and "35.000" not in table
    # the rows are there already, and are asked once for all groups
    names = ["lm_eval:by_size", "lm_eval:by_task"]
    again, summary = heed(tmp_path, f"--tasks={','.join(names)}", *words)
    assert again == rows
    means = {(names[0], "f1"): (35, 8), (names[1], "f1"): (50, 8)}
    assert values(summary) == of_tasks | means
    # they stay in the summary
    _, summary = heed(tmp_path, "--tasks=lm_eval:counting", *words)
    assert values(summary).items() > (of_tasks | means).items()
    assert heed(tmp_path, "--tasks=lm_eval:rolling", *words) == 2
    assert "lm_eval:rolling measures the probability of whole texts" in capsys.readouterr().err


def values(summary):
    """{(task, measure): (value, items)}"""
    return {
        (m["task"], m["metric"]): (pytest.approx(m["interval"]["value"]), m["num_items"])
        for m in summary["measures"]
    }


def test_log_probabilities_are_those_of_our_own_scoring(heed, place, tmp_path):
    """Of one model and the same rows: ours reads a prompt once, the harness with every choice."""
    row = {"ind": 0, "ctx": "w5 w6", "endings": ["w7 w8", "w9", "w10 w11 w12"], "label": 1}
    data, files = tmp_path / "data", tmp_path / "files"
    (data / "hellaswag").mkdir(parents=True)
    path = data / "hellaswag" / "hellaswag_val.jsonl"
    path.write_text(json.dumps(row) + "\n")
    files.mkdir()
    (files / "zero.yaml").write_text(
        f"include: {OWN_TASKS / 'instructgpt_hellaswag.yaml'}\ntask: zero\nnum_fewshot: 0\n"
        f"dataset_path: json\ndataset_kwargs: {{data_files: {{validation: {path}}}}}\n"
        "training_split: null\nfewshot_split: null\n"
    )
    words = ["--data", str(data), f"--task_files={files}", "--compute.dtype=float32"]
    (ours, theirs), _ = heed(tmp_path / "run", "--tasks=hellaswag,lm_eval:zero", *words)
    assert ours["prompt"] == theirs["prompt"]
    assert ours["logprobs"] == pytest.approx(theirs["logprobs"], abs=1e-4)
