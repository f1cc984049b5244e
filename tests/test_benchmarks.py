"""The benchmarks: what they plan, what they count and how they compare. No long run."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from heedful.config import PPOConfig, PretrainConfig, RewardConfig, SFTConfig, make_config
from heedful.data.template import Template

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def small_workload(workload, **settings):
    numbers = {"demonstrations": 6, "comparisons": 2, "completions": 3, "prompts": 4}
    lengths = {"prompt_tokens": [2, 5], "response_tokens": 7}
    return workload.workload_of({"shape": "quick"} | numbers | lengths | settings)


def read_rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_work_has_a_script_of_the_peer_that_does_not_need_heedful(load):
    vs_trl = load("vs_trl")
    for work in vs_trl.UNITS:
        for script in (BENCHMARKS / f"peer_{work}.py", BENCHMARKS / "peer_common.py"):
            nodes = ast.walk(ast.parse(script.read_text()))
            imported = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
            assert not any(name.startswith("heedful") for name in imported)


def test_quick_plans_one_run_of_every_variant_and_the_sides_take_turns(load, capsys):
    assert load("vs_trl").main(["--quick", "--dry-run"]) == 0
    names = capsys.readouterr().out.split()
    assert len(names) == len(set(names)) == 2 + 9 + 2 + 3 + 2 + 6 + 3 + 3
    assert names[:4] == [
        "sft-quick-heedful-bf16-0",
        "sft-quick-peer-autocast-unpacked-0",
        "sft-quick-heedful-fp32-0",
        "sft-quick-peer-autocast-wrapped-0",
    ]


def test_works_models_and_names_choose_the_runs(load, capsys):
    vs_trl = load("vs_trl")
    chosen = ["--only", "reward", "--models", "tiny", "--match", "peer-fp32"]
    vs_trl.main([*chosen, "--repeats", "2", "--dry-run"])
    names = capsys.readouterr().out.split()
    assert names == ["reward-tiny-peer-fp32-0", "reward-tiny-peer-fp32-1"]
    with pytest.raises(SystemExit):
        vs_trl.main(["--only", "dpo", "--dry-run"])


def row(side, variant, rate, **values):
    return {
        "work": "sft",
        "model": "tiny",
        "unit": "tokens/s",
        "side": side,
        "variant": variant,
        "rate": rate,
        "repeat": 0,
        "step_s": 1.0,
        "phases_s": {},
        "process_peak_gib": 1.0,
        "process_others": 0.0,
    } | values


def test_a_slow_variant_of_the_peer_is_run_once(load):
    vs_trl = load("vs_trl")
    done = [
        row("peer", ["autocast", "unpacked"], 79.0),
        row("peer", ["autocast", "wrapped"], 100.0),
        row("peer", ["fp32", "wrapped"], 81.0),
        row("peer", ["bf16", "unpacked"], 150.0),  # without masters: another competition
    ]

    def behind(side, *variant, repeat=1):
        return vs_trl.is_behind(vs_trl.Run("sft", "tiny", side, variant, repeat), done)

    assert behind("peer", "autocast", "unpacked")
    assert not behind("peer", "autocast", "unpacked", repeat=0)
    assert not behind("peer", "fp32", "wrapped")
    assert not behind("peer", "bf16", "unpacked")
    assert not behind("heedful", "fp32")


def test_ratios_compare_medians_with_the_best_of_the_same_kind(load):
    vs_trl = load("vs_trl")
    group = [
        *(row("heedful", ["bf16"], rate) for rate in (90.0, 300.0, 100.0)),  # median 100
        row("heedful", ["fp32"], 60.0),
        row("peer", ["fp32", "wrapped"], 20.0),
        row("peer", ["autocast", "wrapped"], 25.0),
        row("peer", ["bf16", "wrapped"], 40.0, process_others=0.2),
    ]
    fp32, masters, anything, busy = vs_trl.ratios(group)
    assert "**3** (heedful fp32 over peer fp32 wrapped)" in fp32
    assert "**4** (heedful bf16 over peer autocast wrapped)" in masters
    assert "**2.5** (heedful bf16 over peer bf16 wrapped)" in anything
    assert "run again" in busy
    lines = vs_trl.table(group).splitlines()
    assert lines[2] == "| heedful bf16 | 100 | 90.0 to 300 | 3 | 1 | 1 | 0% |"
    assert [line.split(" | ")[0] for line in lines[4:]] == [
        "| peer bf16 wrapped",
        "| peer autocast wrapped",
        "| peer fp32 wrapped",
    ]


def test_an_environment_that_is_ready_is_kept(load, tmp_path):
    vs_trl = load("vs_trl")
    place = tmp_path / "trl-1.16"
    place.mkdir()
    (place / ".ready").write_text(vs_trl.PEERS["trl-1.16"])
    vs_trl.install("trl-1.16", SimpleNamespace(peers=tmp_path, torch_index=None))
    assert [path.name for path in place.iterdir()] == [".ready"]


def test_a_workload_has_the_rows_and_lengths_that_were_asked_for(load, tmp_path):
    workload = load("workload")
    counts = workload.write_data(small_workload(workload), tmp_path)
    demonstrations = read_rows(tmp_path / "demonstrations.jsonl")
    lengths = [len(f"{row['prompt']} {row['response']}".split()) + 1 for row in demonstrations]
    assert counts == {"tokens_per_demonstration": sum(lengths) / 6}
    comparisons = read_rows(tmp_path / "comparisons.jsonl")
    assert [len(row["completions"]) for row in comparisons] == [3, 3]
    assert comparisons[0]["ranks"] == [1, 2, 3]
    assert len(read_rows(tmp_path / "prompts.jsonl")) == 4
    workload.write_data(small_workload(workload, end_chance=0.0), tmp_path)
    for row in read_rows(tmp_path / "demonstrations.jsonl"):
        assert len(row["response"].split()) == 6  # and EOS
        assert 2 <= len(row["prompt"].split()) <= 5


def test_both_sides_read_the_same_tokens(load):
    """The peer's scripts encode texts themselves; we go through our template."""
    workload = load("workload")
    tokenizer = workload.make_tokenizer(128)
    template = Template.default(tokenizer)
    assert template.encode_prompt("t7 t100") == tokenizer.encode("t7 t100") == [7, 100]
    assert template.encode_response("t9") == [9, workload.EOS]


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3", "gemma3"])
def test_random_models_end_their_responses_by_chance(load, architecture):
    workload = load("workload")
    config = workload.architecture_config(architecture, workload.SHAPES["quick"])
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(7)
    rows = torch.randint(3, 128, (256, 8), generator=generator)
    lengths = {}
    for when in ("before", "after"):
        if when == "after":
            workload.set_end_chance(model, 0.1, 20)
        tokens = rows
        for _ in range(20):
            chances = model(tokens).logits[:, -1].softmax(-1)
            drawn = torch.multinomial(chances, 1, generator=generator)
            tokens = torch.cat((tokens, drawn), dim=1)
        ended = (tokens[:, 8:] == workload.EOS).cumsum(1) > 0
        lengths[when] = float((20 - ended[:, :-1].sum(1)).double().mean())
    assert lengths["before"] > 17
    # 1 + 0.9 + 0.9^2 + ... + 0.9^19 = (1 - 0.9^20) / 0.1
    assert lengths["after"] == pytest.approx(8.784, rel=0.15)


def test_a_workload_is_kept_until_its_settings_change(load, tmp_path):
    workload = load("workload")
    place = tmp_path / "w"
    first = workload.make_workload(small_workload(workload), place)
    (place / "mark").touch()
    assert workload.make_workload(small_workload(workload), place) == first
    assert (place / "mark").exists()
    workload.make_workload(small_workload(workload, prompts=5), place)
    assert not (place / "mark").exists()
    assert {path.name for path in place.iterdir() if path.is_dir()} == {"policy", "reward_model"}


def test_our_commands_take_the_settings(load):
    ours = load("ours")
    for name, model in (("sft", SFTConfig), ("reward", RewardConfig), ("ppo", PPOConfig)):
        work = ours.Work(name, "bf16", 1, 8, 3, minibatch_size=2, response_tokens=5)
        config = make_config(model, ours.settings_of(work, Path("w"), Path("runs/x")), "here")
        assert config.compute.dtype == "bfloat16"
    assert (config.ppo.episodes, config.ppo.batch_size, config.ppo.minibatch_size) == (24, 8, 2)


def test_steps_come_from_the_metrics(load):
    ours = load("ours")
    sft = ours.Work("sft", "fp32", 1, 8, 2)
    assert ours.steps_of(sft, [{"time/update_s": 2.0}, {"time/update_s": 1.0}]).seconds == [2, 1]
    phases = {"time/rollout_s": 1.0, "time/experience_s": 2.0, "time/optimize_s": 4.0}
    steps = ours.steps_of(ours.Work("ppo", "fp32", 1, 8, 1), [phases | {"ppo/length": 3.5}])
    assert steps == ([7], [{"generate": 1, "score": 2, "optimize": 4}], [28])
    with pytest.raises(SystemExit, match="1 steps were logged, 2 were asked for"):
        ours.steps_of(sft, [{"time/update_s": 2.0}])


def test_a_child_is_measured(load, tmp_path):
    """From a small process, as the benchmarks are: a child's peak begins at its parent's."""
    measuring = (
        "import sys; from pathlib import Path; import measure;"
        "child = [sys.executable, '-c', 'print(len(b\\'x\\' * (3 * 2**27)))'];"
        f"print(measure.run_child(child, Path({str(tmp_path / 'log.txt')!r}), 1).peak_gib)"
    )
    folder = Path(load("measure").__file__).parent
    found = subprocess.run(
        [sys.executable, "-c", measuring], cwd=folder, capture_output=True, text=True, check=True
    )
    assert 0.375 < float(found.stdout) < 0.475  # 384 MiB and the interpreter


def test_a_child_that_failed_is_shown(load, tmp_path):
    failing = [sys.executable, "-c", "print('what went wrong'); raise SystemExit(3)"]
    with pytest.raises(SystemExit, match="exit code 3\nwhat went wrong"):
        load("measure").run_child(failing, tmp_path / "log.txt", 1)


@pytest.mark.parametrize(
    ("value", "text"), [(1234.5, "1,234"), (12.34, "12.3"), (1.0, "1"), (0.01234, "0.0123")]
)
def test_numbers_have_three_digits(load, value, text):
    assert load("measure").shown(value) == text


def test_scaling_plans_every_point_once_and_counts_it(load, capsys):
    scaling = load("scaling")
    assert scaling.main(["--only", "reward,ppo", "--dry-run"]) == 0
    names = capsys.readouterr().out.split()
    # five, six and five points; K; two threads: the base point is in all of them
    assert len(names) == len(set(names)) == (5 + 6 + 5 + 4 + 2 - 4) + (5 + 6 + 5 + 2 - 3)
    assert scaling.Point("sft", prompts=8, tokens=10).num_tokens == 80
    assert scaling.Point("reward", prompts=8, completions=9, tokens=10).num_tokens == 2 * 9 * 10


def test_scaling_knows_the_size_of_its_models(load):
    scaling, workload = load("scaling"), load("workload")
    point = scaling.Point("sft", hidden=64, layers=2, vocabulary=50)
    made = workload.workload_of(scaling.workload_settings(point))
    config = workload.architecture_config("llama", made.shape)
    assert AutoModelForCausalLM.from_config(config).num_parameters() == point.parameters


def test_scaling_reports_exponents(load):
    scaling = load("scaling")
    assert scaling.exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2.0)
    points = [scaling.Point("sft", tokens=tokens) for tokens in (32, 64)]
    values = {"step_s": 1.0, "process_peak_gib": 1.5, "process_others": 0.0}
    found = {
        points[0].name: values,
        points[1].name: values | {"step_s": 4.0, "process_peak_gib": 2.5},
    }
    table, _, exponents = scaling.section(points, "length", found, idle_gib=0.5)
    assert "| 64 | 4 | 512 | 2.5 | 0% |" in table
    assert exponents == ("time grows with exponent 2.00, memory above an idle process with 1.00")


def test_generate_plans_whole_prompts_and_measures(load, tmp_path, capsys):
    generate, workload = load("generate"), load("workload")
    generate.main(["--models", "tiny", "--batches", "1,8", "--samples", "1,4", "--dry-run"])
    assert len(capsys.readouterr().out.splitlines()) == 2 * 3  # 4 samples of a prompt are no 1
    workload.make_workload(small_workload(workload), tmp_path / "w")
    threads = str(torch.get_num_threads())
    settings = ["--batches", "4", "--samples", "2", "--dtypes", "fp32", "--max-new-tokens", "6"]
    out = tmp_path / "out.json"
    call = ["--workload", str(tmp_path / "w"), "--json", str(out), "--threads", threads]
    assert generate.main([*settings, *call, "--calls", "3"]) == 0
    (result,) = json.loads(out.read_text())
    assert len(result["steps_s"]) == len(result["units"]) == 3
    assert all(4 <= units <= 24 for units in result["units"])


def test_rooflines_commands_take_their_settings(load):
    roofline, ours = load("roofline"), load("ours")
    configs = {"pretrain": PretrainConfig, "sft": SFTConfig, "reward": RewardConfig}
    for name, model in (configs | {"ppo": PPOConfig}).items():
        point = roofline.Point(name, ("quick",), 1, ("fp32",))
        settings = roofline.settings_of(point, Path("w"), Path("runs/x"))
        config = make_config(model, settings, "here")
        assert (config.compute.dtype, config.compute.threads) == ("float32", 1)
        assert getattr(config, "dropout", 0.0) == 0.0  # as vs_trl.py measures it
    assert (config.ppo.ptx_coef, config.data.text, config.row_tokens) == (1, ("w/text.txt",), 16)
    assert config.ppo.episodes == 3 * config.ppo.batch_size
    assert settings["compute"] == ours.common_settings("fp32", 1, Path("runs/x"))["compute"]


def test_roofline_plans_the_machine_and_every_command(load, capsys):
    words = ["--models", "tiny", "large", "--commands", "sft", "ppo", "--threads", "1", "2"]
    assert load("roofline").main([*words, "--dtypes", "bf16", "--dry-run"]) == 0
    assert capsys.readouterr().out.split() == [
        *("machine-tiny+large-1-bf16", "machine-tiny+large-2-bf16"),
        *("sft-tiny-1-bf16", "sft-tiny-2-bf16", "ppo-tiny-1-bf16", "ppo-tiny-2-bf16"),
        *("sft-large-1-bf16", "sft-large-2-bf16", "ppo-large-1-bf16", "ppo-large-2-bf16"),
    ]


def test_the_machine_is_measured_at_the_shapes_of_the_models(load, monkeypatch):
    roofline = load("roofline")
    monkeypatch.setattr(roofline, "ROWS", {"decode": 2, "chunk": 3, "batch": 4})
    monkeypatch.setattr(roofline, "COPY_MIB", (1,))
    for name in ("RATE_S", "COPY_S"):
        monkeypatch.setattr(roofline, name, 0.0)
    threads = torch.get_num_threads()
    rates = roofline.machine_rates(roofline.shapes_of(["quick"]), threads, ["fp32", "bf16"])
    *products, copy = rates
    assert [rate["shape"] for rate in products[::2]] == [
        (4, 32, 32),
        (4, 32, 64),
        (3, 32, 128),
        (2, 32, 64),
        (2, 32, 128),
    ]
    assert [rate["dtype"] for rate in products] == ["fp32", "bf16"] * 5
    assert all(rate["flops_per_s"] > 0 for rate in products)
    assert copy["bytes_per_s"] > 0


def test_the_largest_model_lies_on_the_line_through_two_peaks(load):
    largest = load("largest")
    # 1 GiB and 16 bytes a weight
    peaks = {100: 1600.0 + 2**30, 300: 4800.0 + 2**30}
    assert largest.line_through(peaks) == (16.0, 2**30)
    assert largest.line_through(peaks).largest(2**34) == pytest.approx(15 * 2**26)
    shape = load("workload").Shape(8, 2, 2, 24, 32)
    # by hand: 2 * 32 * 8 + 2 * (4 * 64 + 3 * 8 * 24 + 2 * 8) + 8
    assert shape.num_weights == 512 + 2 * 848 + 8
    model = AutoModelForCausalLM.from_config(load("workload").architecture_config("llama", shape))
    assert sum(p.numel() for p in model.parameters()) == shape.num_weights
    runs = [
        {
            "work": "sft",
            "side": "heedful",
            "variant": ["bf16"],
            "model": model,
            "process_peak_gib": peak,
        }
        for model, peak in (("base", 3.0), ("medium", 5.0))
    ]
    assert "| sft | heedful bf16 |" in largest.table(runs, 24)
