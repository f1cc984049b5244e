"""The commands on a machine with a CUDA device, pretended: all that compute do it there."""

from __future__ import annotations

import json
import tomllib

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from heedful.cli import main
from heedful.models import language_model
from heedful.models.scalar_model import scalar_model_from
from heedful.training.checkpoint import publish

PROMPTS = [
    {"text": f"w{i} w{i + 3} w{i + 7}", "split": "valid" if i % 5 == 0 else "train"}
    for i in range(2, 34)
]
DEMONSTRATIONS = [
    {"prompt_id": f"d{i}", "prompt": f"w{i}", "response": f"w{i + 1} w{i + 2}"}
    for i in range(2, 22)
]
COMPARISONS = [
    {
        "prompt_id": f"c{i}",
        "prompt": f"w{i} w{i + 1}",
        "completions": [
            {"id": f"c{i}/{k}", "text": f"w{i + 3 * k}", "model": None} for k in (1, 2)
        ],
        "ranks": [1, 2] if i % 2 else [2, 1],
    }
    for i in range(2, 22)
]
PAIRS = ["id,sent_more,sent_less,stereo_antistereo,bias_type"]
PAIRS += [f"{i},w{i + 5} w20 w21,w{i + 5} w30 w31,stereo,age" for i in range(7)]


@pytest.fixture
def place(tmp_path, tiny_model, tokenizer):
    """A base and a reward model, and a file of every kind of data."""
    publish(tiny_model(), tokenizer, tmp_path / "base", {})
    publish(scalar_model_from(tmp_path / "base", 3), tokenizer, tmp_path / "rm", {})
    rows = {"prompts": PROMPTS, "demonstrations": DEMONSTRATIONS, "comparisons": COMPARISONS}
    for name, values in rows.items():
        text = "".join(json.dumps({"split": "train"} | row) + "\n" for row in values)
        (tmp_path / f"{name}.jsonl").write_text(text)
    (tmp_path / "text.txt").write_text(" ".join(f"w{i % 90}" for i in range(900)))
    (tmp_path / "written.jsonl").write_text('{"id": "p", "text": "w9 "}\n')
    (tmp_path / "data" / "crows_pairs").mkdir(parents=True)
    pairs = tmp_path / "data" / "crows_pairs" / "crows_pairs_anonymized.csv"
    pairs.write_text("\n".join(PAIRS))
    return tmp_path


def commands(place):
    """Every command that computes, with its words."""
    data = {name: f"--data.{name}={place / name}.jsonl" for name in ("demonstrations", "prompts")}
    base, rm, prompts = place / "base", place / "rm", f"--prompts={place}/prompts.jsonl"
    text, model = f"{place}/text.txt", f'[{{ name = "base", path = "{place}/base" }}]'
    new = "--sampling.max-new-tokens=5"
    return {
        "pretrain": [
            f"--tokenizer={base}",
            f"--data.train={text}",
            "--num-tokens=512",
            "--row-tokens=16",
            "--optim.lr=1e-3",
            "--optim.batch-size=8",
            "--shape.hidden-size=32",
            "--shape.num-layers=2",
            "--shape.num-heads=4",
            "--shape.mlp-size=64",
            "--shape.context=64",
        ],
        "sft": [
            f"--base={base}",
            *data.values(),
            "--optim.lr=1e-3",
            "--optim.batch-size=8",
            "--epochs=2",
            "--select=score",
            f"--reward-model={rm}",
            new,
            "--pretraining-mix=0.1",
            f"--data.text={text}",
            "--row-tokens=16",
        ],
        "reward": [
            f"--base={base}",
            f"--data.comparisons={place}/comparisons.jsonl",
            data["demonstrations"],
            "--optim.lr=1e-3",
            "--optim.batch-size=8",
        ],
        "ppo": [
            f"--policy={base}",
            f"--reward-model={rm}",
            data["prompts"],
            f"--data.text={text}",
            "--ppo.ptx-coef=1",
            "--ppo.episodes=48",
            "--ppo.batch-size=16",
            "--ppo.minibatch-size=8",
            "--row-tokens=16",
            "--eval-every=2",
            new,
        ],
        "sample": [f"--models={model}", prompts, f"--reward-model={rm}", "--split=train", new],
        "measure": [f"--models={model}", f"--text={text}"],
        "prefix": [
            f"--model={base}",
            f"--reward-model={rm}",
            f"--prefixes={place}/written.jsonl",
            prompts,
            new,
        ],
    }


@pytest.mark.parametrize(
    ("dtype", "lora", "names"),
    [
        ("auto", False, ["pretrain", "sft", "reward", "ppo", "sample", "measure", "prefix"]),
        ("float32", False, ["ppo"]),
        ("auto", True, ["reward", "ppo"]),
    ],
)
def test_commands_compute_on_the_device(place, cuda, capsys, monkeypatch, dtype, lora, names):
    devices: set[str] = set()
    forward = torch.nn.Embedding.forward

    def spy(self, tokens):
        devices.add(tokens.device.type)
        return forward(self, tokens)

    monkeypatch.setattr(torch.nn.Embedding, "forward", spy)
    # a model that has just been loaded is looked at on the processor
    monkeypatch.setattr(language_model, "require_packing", lambda *_: None)
    for name in names:
        run = place / "runs" / name
        words = [*commands(place)[name], f"--run-dir={run}", f"--compute.dtype={dtype}"]
        words += ["--lora.rank=2"] if lora else []
        devices.clear()
        status, said = main([name, *words]), capsys.readouterr().err
        assert status == 0, said
        assert devices == {"cuda"}, name
        compute = tomllib.loads((run / "config.toml").read_text())["compute"]
        decided = "bfloat16" if dtype == "auto" else dtype
        assert (compute["device"], compute["dtype"]) == ("auto", decided), name
        assert f"computing in {decided} on cuda, Pretend\n" in said, name
        if name in ("sft", "ppo"):
            AutoModelForCausalLM.from_pretrained(run / "model")
        if name == "reward":
            AutoModelForSequenceClassification.from_pretrained(run / "model")


def test_suites_are_asked_on_the_device(place, cuda, capsys):
    """And answer as on the processor, in fp32."""
    found = []
    for device in ("cpu", "cuda"):
        words = [f"--models={{base = '{place}/base'}}", f"--data={place}/data"]
        words += [f"--run-dir={place / device}", f"--compute.device={device}"]
        assert main(["eval", "bias", *words, "--compute.dtype=float32"]) == 0, capsys.readouterr()
        rows = [
            json.loads(x) for x in (place / device / "eval/bias.jsonl").read_text().splitlines()
        ]
        found.append([row["logprobs"] for row in rows])
    assert len(found[0]) >= len(PAIRS) - 1
    for here, there in zip(*found, strict=True):
        assert there == pytest.approx(here, abs=1e-4)


def test_a_device_that_is_not_there_is_named(place, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = commands(place)["measure"]
    words += [f"--run-dir={place}/run", "--compute.device=cuda"]
    assert main(["measure", *words]) == 2
    assert 'set compute.device to "cpu"' in capsys.readouterr().err
    assert main(["measure", *words[:-1], "--compute.device=gpu"]) == 2
    assert "compute.device" in (said := capsys.readouterr().err) and '"auto"' in said
