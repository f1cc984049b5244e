"""heed ppo with evaluations: what they measure, what they cost, and that training never notices."""

from __future__ import annotations

import json
import re

import pytest
import torch
from transformers import AutoModelForCausalLM

from heedful.cli import main
from heedful.commands.eval import run_eval
from heedful.commands.report import stage_costs
from heedful.commands.train import run_ppo
from heedful.config import EvalConfig, PPOConfig
from heedful.errors import ConfigError, DataError
from heedful.metrics import read_metrics
from heedful.models.language_model import load_language_model
from heedful.models.scalar_model import scalar_model_from
from heedful.rollout.engine import sample
from heedful.training.checkpoint import publish

EOS, PAD = 0, 1
TRAIN = [{"text": f"w{i} w{i + 3} w{i + 7}", "split": "train"} for i in range(2, 34)]
VALID = [{"text": f"w{i} w{i + 9}", "split": "valid"} for i in range(40, 52)]
DOCUMENTS = ["w3 w4 w5 w6", "w7 w8", "w9 w10 w11"]


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model, tokenizer):
    """A policy and its reward model that read 64 tokens, prompts, text and pairs of sentences."""
    path = tmp_path_factory.mktemp("place")
    publish(tiny_model(), tokenizer, path / "policy", {})
    publish(scalar_model_from(path / "policy", 3), tokenizer, path / "reward", {})
    rows = "".join(json.dumps(row) + "\n" for row in [*TRAIN, *VALID])
    (path / "prompts.jsonl").write_text(rows)
    texts = "".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS)
    (path / "text.jsonl").write_text(texts)
    pairs = ["id,sent_more,sent_less,stereo_antistereo,bias_type"]
    pairs += [f"{i},w{i + 5} w20 w21,w{i + 5} w30 w31,stereo,age" for i in range(6)]
    (path / "data" / "crows_pairs").mkdir(parents=True)
    (path / "data" / "crows_pairs" / "crows_pairs_anonymized.csv").write_text("\n".join(pairs))
    return path


def settings(place, run_dir, **changes):
    values = {
        "run_dir": str(run_dir),
        "policy": str(place / "policy"),
        "reward_model": str(place / "reward"),
        "data": {"prompts": [str(place / "prompts.jsonl")]},
        "sampling": {"max_new_tokens": 5},
        "compute": {"dtype": "float32"},
        "ppo": {
            **{"episodes": 96, "batch_size": 32, "minibatch_size": 32, "lr": 1e-2},
            **{"warmup_iterations": 0, "missing_eos_score": "none"},
            "ema_decay": 0.0,  # what is published is what the last evaluation saw
        },
    }
    return PPOConfig.model_validate(values | changes)


def everything(place):
    return {
        "prompts": 5,
        "text": [str(place / "text.jsonl")],
        "documents": 2,
        "document_tokens": 4,
        "suites": ["crows_pairs"],
        "data": str(place / "data"),
        "limit": 4,
    }


@pytest.fixture(scope="module")
def runs(place, tmp_path_factory):
    """The run directories of one training without evaluations and one with all of them."""
    found = tmp_path_factory.mktemp("runs")
    run_ppo(settings(place, found / "plain"))
    run_ppo(settings(place, found / "looked", eval_every=2, eval=everything(place)))
    return found


def test_training_is_the_same_bit_for_bit(runs, results_of):
    def of_training(row):
        return {key: row[key] for key in row if not key.startswith(("valid/", "eval/"))}

    looked = results_of(runs / "looked")
    assert [of_training(row) for row in looked] == results_of(runs / "plain")
    assert [("valid/score" in row) for row in looked] == [False, True, True]
    files = [(runs / name / "model/model.safetensors").read_bytes() for name in ("plain", "looked")]
    assert files[0] == files[1]


def test_answers_are_measured_on_the_same_prompts_with_the_same_draws(runs, place, tokenizer):
    """KL and length of the published policy's samples, by transformers' own logits."""
    row = read_metrics(runs / "looked")[-1]
    places = [runs / "looked/model", place / "policy"]
    policy, reference = (AutoModelForCausalLM.from_pretrained(path).eval() for path in places)
    texts = sorted((one["text"] for one in VALID), key=hash_of_id)[:5]
    prompts = [tokenizer(f"{text}\n")["input_ids"] for text in texts]
    rollout = sample(
        load_language_model(str(places[0])),
        prompts,
        max_new_tokens=5,
        eos=EOS,
        pad=PAD,
        generator=torch.Generator().manual_seed(0),
    )

    def logprob(model, prompt, response):
        with torch.no_grad():
            z = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        return float(torch.log_softmax(z, -1).gather(1, torch.tensor(response)[:, None]).sum())

    pairs = list(zip(prompts, rollout.rows(), strict=True))
    kl = sum(logprob(policy, *pair) - logprob(reference, *pair) for pair in pairs) / 5
    assert abs(kl) > 0.1
    assert row["valid/kl"] == pytest.approx(kl, abs=1e-4)
    assert row["valid/length"] == sum(len(response) for _, response in pairs) / 5


def hash_of_id(text):
    """A prompt without an id is called after its text; the sample is the first by a hash of ids."""
    from hashlib import sha256

    from heedful.data.formats import prompt_id

    return sha256(prompt_id(text).encode()).hexdigest()


def test_text_is_measured_in_nats_per_token(runs, tokenizer):
    """Two documents between two EOS, the first cut to four tokens: 3 + 3 predictions."""
    model = AutoModelForCausalLM.from_pretrained(runs / "looked/model").eval()
    total = 0.0
    for text in DOCUMENTS[:2]:
        tokens = [EOS, *tokenizer(text)["input_ids"], EOS][:4]
        assert len(tokens) == 4
        with torch.no_grad():
            logprobs = torch.log_softmax(model(torch.tensor([tokens])).logits[0, :-1], -1)
        total -= float(logprobs.gather(1, torch.tensor(tokens[1:])[:, None]).sum())
    found = read_metrics(runs / "looked")[-1]["valid/text_loss"]
    assert found == pytest.approx(total / 6, abs=1e-5)


def test_suites_are_those_of_heed_eval(runs, place, tmp_path):
    """The command, asked of the published model, gives the value of the last evaluation."""
    config = EvalConfig(
        run_dir=str(tmp_path),
        suites=("bias",),
        tasks=("crows_pairs",),
        models={"policy": str(runs / "looked/model")},
        data=str(place / "data"),
        limit=4,
        compute={"dtype": "float32"},  # type: ignore[arg-type]
    )
    run_eval(config)
    measures = json.loads((tmp_path / "eval/bias.json").read_text())["measures"]
    row = read_metrics(runs / "looked")[-1]
    found = {key: row[key] for key in row if key.startswith("eval/")}
    assert len(found) == len(measures) == 6  # two measures under three instructions
    named = {
        f"{one['metric'].split()[0]} {one['variant']}": one["interval"]["value"] for one in measures
    }
    for key, value in found.items():
        _, measure, variant = key.split(".")
        assert value == pytest.approx(named[f"{measure.split('_')[0]} {variant}"], abs=1e-6)


def test_the_cost_is_told(runs, place, tmp_path, capsys):
    rows = read_metrics(runs / "looked")
    phases = ("rollout", "experience", "optimize", "observe", "evaluate")
    spent = [sum(row.get(f"time/{name}_s", 0.0) for name in phases) for row in rows]
    looked = [row.get("time/evaluate_s", 0.0) for row in rows]
    assert looked[0] == 0 and min(looked[1:]) > 0
    assert "time/evaluate_share" not in rows[0]
    for end in (2, 3):
        share = sum(looked[:end]) / sum(spent[:end])
        assert rows[end - 1]["time/evaluate_share"] == pytest.approx(share)
    capsys.readouterr()
    run_ppo(settings(place, tmp_path, eval_every=3, eval={"measures": ["length"], "prompts": 1}))
    (line,) = [one for one in capsys.readouterr().err.splitlines() if "evaluated" in one]
    assert re.fullmatch(
        r"step 3/3  evaluated \(\S+ s, \d+\.\d% of the run so far\):  length 5", line
    )


def test_a_run_goes_on_with_other_evaluations(runs, place, tmp_path, monkeypatch, interrupt_at):
    """Cut after the second iteration, then asked more: the rest has the new values, and the model
    is that of a run that never looked."""
    first = settings(place, tmp_path, eval_every=1, eval={"measures": ["length"], "prompts": 1})
    first = first.model_copy(update={"log": first.log.model_copy(update={"save_every": 1})})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("heedful.commands.train.file_progress", lambda _: interrupt_at(2))
        run_ppo(first)
    run_ppo(settings(place, tmp_path, eval_every=1, eval=everything(place)), resume=True)
    before, between, after = (row.keys() for row in read_metrics(tmp_path))
    assert "valid/length" in before and "valid/score" not in before
    assert "valid/score" in after and any(key.startswith("eval/crows_pairs") for key in after)
    assert "valid/length" in between
    weights = [path / "model/model.safetensors" for path in (tmp_path, runs / "plain")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_share_is_no_time_of_a_stage(tmp_path):
    """10 tokens a second over 2 s of sampling and 3 s of evaluating."""
    stage = tmp_path / "stages" / "ppo"
    stage.mkdir(parents=True)
    row = {"step": 0, "speed/tokens_per_s": 10.0, "time/rollout_s": 2.0, "time/evaluate_s": 3.0}
    (stage / "metrics.jsonl").write_text(json.dumps(row | {"time/evaluate_share": 0.6}))
    (stage / "stage.json").write_text(json.dumps({"seconds": 6.0}))
    (cost,) = stage_costs(tmp_path)
    assert (cost["tokens"], cost["seconds"]) == (50.0, 6.0)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"eval": {"text": ["t.txt"]}}, ConfigError, "need eval_every"),
        ({"eval_every": 1, "eval": {"measures": []}}, ConfigError, "nothing to measure"),
        ({"eval_every": 1, "eval": {"suites": ["bias"]}}, ConfigError, "needs eval.data"),
        ({"eval_every": 1, "eval": {"suites": ["bios"], "data": "."}}, ConfigError, "'bias'"),
        ({"eval_every": 1, "eval": {"suites": ["bbq"], "data": "."}}, DataError, "licence"),
    ],
)
def test_what_cannot_be_measured_is_said_before_training(place, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        run_ppo(settings(place, tmp_path, **changes))
    assert not (tmp_path / "metrics.jsonl").exists()


def test_tasks_of_a_suite_without_files_are_left_out_and_said(place, tmp_path, capsys):
    """Of bias only the pairs are there; a task named beside the suite still needs its file."""
    wanted = {"suites": ["bias"], "data": str(place / "data"), "limit": 1, "measures": []}
    run_ppo(settings(place, tmp_path / "run", eval_every=3, eval=wanted))
    said = capsys.readouterr().err
    assert "left out: winogender: " in said and "left out: bbq: " in said
    found = {key.split(".")[0] for row in read_metrics(tmp_path / "run") for key in row}
    assert {key for key in found if key.startswith("eval/")} == {"eval/crows_pairs"}
    wanted["suites"] = ["bias,winogender"]
    with pytest.raises(DataError, match=r"winogender: .*licence"):
        run_ppo(settings(place, tmp_path / "no", eval_every=3, eval=wanted))


def test_tasks_of_a_suite_that_do_not_fit_are_left_out_and_said(place, tmp_path, capsys):
    """A story of 80 words for a policy that reads 64 tokens; a task named itself has to fit."""
    data = tmp_path / "data"
    for folder, name in (("crows_pairs", "crows_pairs_anonymized.csv"),):
        (data / folder).mkdir(parents=True)
        (data / folder / name).write_text((place / "data" / folder / name).read_text())
    (data / "winogender").mkdir()
    story = " ".join(["w7"] * 80)
    lines = ["sentid\tsentence"]
    lines += [
        f"clerk.man.0.{kind}.txt\tThe clerk said {kind} {story}" for kind in ("male", "female")
    ]
    (data / "winogender" / "all_sentences.tsv").write_text("\n".join(lines))
    wanted = {"suites": ["bias"], "data": str(data), "limit": 1, "measures": []}
    run_ppo(settings(place, tmp_path / "run", eval_every=3, eval=wanted))
    said = capsys.readouterr().err
    assert "left out: no item of winogender fits the 64 tokens" in said
    wanted["suites"] = ["crows_pairs", "winogender"]
    with pytest.raises(DataError, match="no item of winogender fits the 64 tokens"):
        run_ppo(settings(place, tmp_path / "no", eval_every=3, eval=wanted))


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--eval_every=1", "--eval.suites=crow_pairs"], 1, "did you mean 'crows_pairs'"),
        (["--eval_every=1", "--eval.suites=crows_pairs,bbq"], 1, "bbq: "),
        (["--eval.suites=crows_pairs"], 1, "need eval_every: give --eval_every=N"),
        (["--eval.prompts=3"], 0, "eval_every is 0, so the settings of the group eval do nothing"),
        (["--eval_every=1", "--eval.suites=bias"], 0, "tasks asked each time"),
        (
            ["--eval_every=1", "--eval.suites=bias,crows_pairs"],
            0,
            '    "bias",\n    "crows_pairs",',
        ),
    ],
)
def test_the_dry_run_looks_at_the_suites(place, tmp_path, capsys, words, code, said):
    given = [f"--{key}={place / name}" for key, name in (("policy", "policy"),)]
    given += [f"--reward_model={place / 'reward'}", f"--data.prompts={place / 'prompts.jsonl'}"]
    given += [f"--run_dir={tmp_path}", f"--eval.data={place / 'data'}", "--ppo.ptx_coef=0"]
    given += ["--data.max_prompt_tokens=40", "--sampling.max_new_tokens=5", "--dry-run"]
    if not any(word.startswith("--eval.suites") for word in words):
        given = [word for word in given if "eval.data" not in word]
    assert main(["ppo", *given, *words]) == code
    told = capsys.readouterr()
    assert said in told.out + told.err
