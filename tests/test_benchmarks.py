"""The benchmarks: what they plan, what they count and how they compare. No long run."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
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


def test_no_run_and_no_interpreter_are_said(load, capsys):
    with pytest.raises(SystemExit, match="no run has 'nothing' in its name"):
        load("vs_trl").main(["--dry-run", "--match=nothing"])
    with pytest.raises(SystemExit, match="/nope is no interpreter that runs: No such file"):
        load("vs_trl").main(["--dry-run", "--peer-python=/nope"])
    assert capsys.readouterr().out == ""


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
    report = load("trl_report")
    group = [
        *(row("heedful", ["bf16"], rate) for rate in (90.0, 300.0, 100.0)),  # median 100
        row("heedful", ["fp32"], 60.0),
        row("peer", ["fp32", "wrapped"], 20.0),
        row("peer", ["autocast", "wrapped"], 25.0),
        row("peer", ["bf16", "wrapped"], 40.0, process_others=0.2),
    ]
    fp32, masters, anything, busy = report.ratios(group)
    assert "**3** (heedful fp32 over peer fp32 wrapped)" in fp32
    assert "**4** (heedful bf16 over peer autocast wrapped)" in masters
    assert "**2.5** (heedful bf16 over peer bf16 wrapped)" in anything
    assert "run again" in busy
    lines = report.table(group).splitlines()
    assert lines[2] == "| heedful bf16 | 100 | 90.0 to 300 | 3 | 1 | 1 | 0% |"
    assert [line.split(" | ")[0] for line in lines[4:]] == [
        "| peer bf16 wrapped",
        "| peer autocast wrapped",
        "| peer fp32 wrapped",
    ]


def test_an_environment_that_is_ready_is_kept(load, tmp_path):
    peers = load("peers")
    place = tmp_path / "trl-1.16"
    place.mkdir()
    (place / ".ready").write_text(peers.PEERS["trl-1.16"])
    peers.install("trl-1.16", SimpleNamespace(peers=tmp_path, torch_index=None))
    assert [path.name for path in place.iterdir()] == [".ready"]


def test_a_workload_has_the_rows_and_lengths_that_were_asked_for(load, tmp_path):
    workload = load("workload")
    counts = workload.write_data(small_workload(workload), tmp_path)
    demonstrations = read_rows(tmp_path / "demonstrations.jsonl")
    lengths = [len(f"{row['prompt']} {row['response']}".split()) + 1 for row in demonstrations]
    comparisons = read_rows(tmp_path / "comparisons.jsonl")
    assert [len(row["completions"]) for row in comparisons] == [3, 3]
    assert comparisons[0]["ranks"] == [1, 2, 3]
    compared = [
        len(f"{row['prompt']} {completion['text']}".split()) + 1
        for row in comparisons
        for completion in row["completions"]
    ]
    prompts = [len(row["text"].split()) for row in read_rows(tmp_path / "prompts.jsonl")]
    assert (len(compared), len(prompts)) == (6, 4)
    assert counts == {
        "tokens_per_demonstration": sum(lengths) / 6,
        "tokens_per_comparison": sum(compared) / 2,
        "tokens_per_prompt": sum(prompts) / 4,
    }
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
    assert steps == ([7], [{"generate": 1, "score": 2, "optimize": 4}], [28], None)
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


@pytest.mark.parametrize(("named", "seen"), [(None, "0"), ("2,3", "2"), ("", "")])
def test_a_child_sees_one_device(load, tmp_path, monkeypatch, named, seen):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    asking = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    load("measure").run_child([sys.executable, "-c", asking], tmp_path / "log.txt", 1)
    assert (tmp_path / "log.txt").read_text() == f"{seen}\n"


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
    assert config.ppo.episodes == 4 * config.ppo.batch_size
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


# --- on a CUDA device ---


def found_device(load, monkeypatch, name="Some GPU", flops_per_s=9e14):
    """Gives the benchmarks a device, as the process that looks for one would."""
    accelerator = load("accelerator")

    def run_child(command, log, threads):
        text = json.dumps({"device_name": name, "matmul_flops_per_s": flops_per_s})
        command[-1].write_text(text)

    monkeypatch.setattr(accelerator, "_known", {})
    monkeypatch.setattr(accelerator.measure, "run_child", run_child)


DEVICE_MODELS = [
    # by hand: layers * (4 * hidden^2 + 3 * hidden * mlp + 2 * hidden) + 2 * 32000 * hidden + hidden
    ("0.1b", 64, 12 * 7_079_424 + 49_152_000 + 768),
    ("0.5b", 128, 20 * 20_318_720 + 81_920_000 + 1280),
    ("1.5b", 128, 26 * 51_384_320 + 131_072_000 + 2048),
]


@pytest.mark.parametrize(("name", "head_size", "num_weights"), DEVICE_MODELS)
def test_models_for_accelerators_have_their_size_and_data(load, name, head_size, num_weights):
    workload, roofline, vs_trl = load("workload"), load("roofline"), load("vs_trl")
    shape = workload.SHAPES[name]
    assert shape.num_weights == num_weights
    assert num_weights == pytest.approx(float(name[:-1]) * 1e9, rel=0.35)
    assert (shape.hidden_size // shape.num_heads, shape.context) == (head_size, 2048)
    assert roofline.MODELS[name].shape["hidden_size"] == shape.hidden_size
    assert (roofline.MODELS[name].row_tokens, roofline.MODELS[name].comparisons) == (512, 16)
    runs = [vs_trl.Run(work, name, "heedful", ("bf16",), 0) for work in vs_trl.UNITS]
    options = SimpleNamespace(architecture="llama")
    settings = [vs_trl.workload_settings(run, options) for run in runs]
    assert settings[0] == settings[1] == settings[2] == settings[3]  # made once for all
    assert {vs_trl.workload_name(run) for run in runs} == {name}
    made = workload.workload_of(settings[0])
    assert (made.prompt_tokens, made.response_tokens) == ((64, 256), 256)
    assert (made.end_chance, made.weights) == (0.0078125, "bfloat16")
    assert made.demonstrations == 128 * 8
    assert (made.comparisons, made.prompts) == (16 * 6, 256 * 4)


def test_files_of_half_the_size_and_the_weights_that_multiply(load, tmp_path):
    workload = load("workload")
    small = small_workload(workload, weights="bfloat16")
    counts = workload.make_workload(small, tmp_path / "llama")
    # by hand: 2 * (4 * 32^2 + 3 * 32 * 64 + 2 * 32) + 32, and the head alone, 128 * 32
    assert counts["matmul_weights"] == 20_608 + 32 + 4096
    for name in ("policy", "reward_model"):
        tensors = load_file(tmp_path / "llama" / name / "model.safetensors")
        assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    tied = small_workload(workload, architecture="qwen3")
    counts = workload.make_workload(tied, tmp_path / "qwen3")
    assert counts["matmul_weights"] == sum(  # the embedding is the head
        tensor.numel()
        for tensor in load_file(tmp_path / "qwen3" / "policy" / "model.safetensors").values()
    )


def test_on_cuda_other_models_are_planned_and_on_the_processor_the_same(load, capsys):
    vs_trl, generate, roofline = load("vs_trl"), load("generate"), load("roofline")
    cuda = ["--device", "cuda"]
    assert vs_trl.parse([]).models == ["tiny", "small"]
    assert vs_trl.parse(cuda).models == ["0.1b", "0.5b", "1.5b"]
    assert vs_trl.parse([*cuda, "--models", "tiny"]).models == ["tiny"]
    assert vs_trl.parse(cuda).out.name == "llama-cuda"
    found = [generate.parse(words) for words in ([], cuda)]
    assert [options.max_new_tokens for options in found] == [64, 256]
    assert [options.batches[-1] for options in found] == [128, 256]
    assert [options.models[-1] for options in found] == ["small", "1.5b"]
    found = [roofline.parse(words) for words in ([], cuda)]
    assert [options.models[-1] for options in found] == ["large", "1.5b"]
    assert found[0].threads == [1, 2]
    assert {point.device for point in roofline.plan(found[1])} == {"cuda"}
    assert "threads" in load("scaling").parse([]).axes
    assert "threads" not in load("scaling").parse(cuda).axes
    assert vs_trl.main([*cuda, "--quick", "--dry-run", "--peers", "nowhere"]) == 0
    assert len(capsys.readouterr().out.split()) == 2 + 9 + 2 + 3 + 2 + 6 + 3 + 3


@pytest.mark.parametrize("name", ["vs_trl", "generate", "roofline", "scaling"])
def test_rows_say_on_which_device_they_were_measured(load, tmp_path, monkeypatch, name):
    benchmark = load(name)
    found_device(load, monkeypatch)
    words = ["--out", str(tmp_path)]
    on_cpu = benchmark.conditions(benchmark.parse(words))
    on_cuda = benchmark.conditions(benchmark.parse([*words, "--device", "cuda"]))
    assert on_cpu["device"] == "cpu"
    assert "device_name" not in on_cpu
    assert (on_cuda["device"], on_cuda["device_name"]) == ("cuda", "Some GPU")
    measure, file = load("measure"), tmp_path / "rows.jsonl"
    for same in (on_cpu, on_cuda):
        measure.append_row(file, same)
    assert measure.kept_rows(file, on_cuda) == [on_cuda]


def test_our_commands_are_given_the_device(load):
    ours, roofline = load("ours"), load("roofline")
    for device in ("cpu", "cuda"):
        for name, model in (("sft", SFTConfig), ("reward", RewardConfig), ("ppo", PPOConfig)):
            work = ours.Work(name, "bf16", 1, 8, 3, minibatch_size=2, device=device)
            config = make_config(model, ours.settings_of(work, Path("w"), Path("x")), "here")
            assert config.compute.device == device
            assert config.compute.tokens_per_microbatch == 0
        point = roofline.Point("pretrain", ("quick",), 1, ("bf16",), device)
        settings = roofline.settings_of(point, Path("w"), Path("x"))
        assert make_config(PretrainConfig, settings, "here").compute.device == device


def test_a_device_has_its_peak_from_the_last_row_of_the_metrics(load):
    ours = load("ours")
    rows = [{"time/update_s": 2.0, "memory/peak_gib": peak} for peak in (3.0, 5.0)]
    peaks = {
        device: ours.steps_of(ours.Work("sft", "bf16", 1, 8, 2, device=device), rows)[-1]
        for device in ("cpu", "cuda")
    }
    assert peaks == {"cpu": None, "cuda": 5.0}


def test_the_peer_is_given_the_device_and_waits_for_it(load, tmp_path, monkeypatch):
    vs_trl, peer_common = load("vs_trl"), load("peer_common")
    run = vs_trl.Run("sft", "0.5b", "peer", ("autocast", "bfd", "flash"), 0)
    tasks = {
        device: vs_trl.task_of(run, vs_trl.SIZES["0.5b"], tmp_path, tmp_path / "out", device, 2)
        for device in ("cpu", "cuda")
    }
    assert {device: task["parts"] for device, task in tasks.items()} == {"cpu": 1, "cuda": 2}
    for device, task in tasks.items():
        settings = peer_common.trainer_settings(task)
        assert (settings["use_cpu"], settings["bf16"]) == (device == "cpu", True)

    loaded = {}
    auto_class = SimpleNamespace(from_pretrained=lambda path, **settings: loaded.update(settings))
    peer_common.load(auto_class, tasks["cuda"], "policy")
    assert loaded == {"dtype": torch.float32, "attn_implementation": "flash_attention_2"}
    loaded.clear()
    peer_common.load(auto_class, tasks["cuda"] | {"variant": ["bf16", "bfd"]}, "policy")
    assert loaded == {"dtype": torch.bfloat16}  # attention is transformers' choice

    waits = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(1))
    times = peer_common.StepTimes()
    for is_used, expected in ((False, 0), (True, 2)):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda is_used=is_used: is_used)
        times.on_step_begin(None, None, None)
        times.on_step_end(None, None, None)
        assert len(waits) == expected
    file = tmp_path / "task.json"
    monkeypatch.setattr(sys, "argv", ["peer_sft.py", str(file)])
    monkeypatch.setattr(peer_common.transformers.logging, "set_verbosity_error", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    file.write_text(json.dumps(tasks["cpu"]))
    assert peer_common.read_task()["device"] == "cpu"
    file.write_text(json.dumps(tasks["cuda"]))
    with pytest.raises(SystemExit, match="no CUDA device"):
        peer_common.read_task()
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**29)
    for task, found in ((tasks["cpu"], None), (tasks["cuda"], 1.5)):
        peer_common.write_result(task, units=[1])
        result = json.loads((tmp_path / "out").read_text())
        assert (result["units"], result.get("device_peak_gib")) == ([1], found)


def fake_peer(load, monkeypatch, log, fits_at):
    """A script of the peer's whose memory is enough from this number of parts on; its tasks."""
    tasks = []

    def run_child(command, to, threads):
        task = json.loads(Path(command[-1]).read_text())
        tasks.append(task["parts"])
        if task["parts"] < fits_at:
            to.write_text(log)
            raise SystemExit(1)
        result = {"steps_s": [9.0, 2.0, 4.0], "units": [1, 300, 300], "device_peak_gib": 7.5}
        Path(task["out"]).write_text(json.dumps(result))
        return load("measure").Child(20.0, 3.0, 0.0)

    monkeypatch.setattr(load("measure"), "run_child", run_child)
    return tasks


def test_a_peer_that_runs_out_of_memory_gets_smaller_parts(load, tmp_path, monkeypatch):
    vs_trl = load("vs_trl")
    run = vs_trl.Run("sft", "0.5b", "peer", ("fp32", "unpacked"), 1)
    options = SimpleNamespace(device="cuda", threads=1, peer_python=Path("python"))
    given = (run, vs_trl.SIZES["0.5b"], tmp_path, tmp_path, options)
    tasks = fake_peer(load, monkeypatch, "torch.OutOfMemoryError: CUDA out of memory.", 8)
    _, result = vs_trl.run_peer(*given, vs_trl.first_parts(run, []))
    assert (tasks, result["parts"]) == ([2, 4, 8], 8)
    done = [{"name": run._replace(repeat=0).name, "repeat": 0, "parts": 8}, {"name": "x"}]
    assert vs_trl.first_parts(run, done) == 8
    assert vs_trl.first_parts(run._replace(variant=("bf16", "bfd")), done) == 2
    tasks = fake_peer(load, monkeypatch, "torch.OutOfMemoryError: CUDA out of memory.", 99)
    with pytest.raises(SystemExit):
        vs_trl.run_peer(*given, 2)
    assert tasks == [2, 4, 8, 16]
    for log, device in (("a mistake", "cuda"), ("a mistake", "cpu")):
        options.device = device
        tasks = fake_peer(load, monkeypatch, log, 99)
        with pytest.raises(SystemExit):
            vs_trl.run_peer(*given, 2)
        assert len(tasks) == 1


def test_rows_of_a_device_have_flops_and_its_peak(load, tmp_path, monkeypatch):
    vs_trl = load("vs_trl")
    counts = {"matmul_weights": 1000, "tokens_per_prompt": 160.0}
    monkeypatch.setattr(load("measure"), "make_workload", lambda *_: counts)
    fake_peer(load, monkeypatch, "", 1)
    run = vs_trl.Run("sft", "0.1b", "peer", ("bf16", "wrapped"), 0)
    options = SimpleNamespace(device="cuda", threads=1, peer_python=Path("python"), out=tmp_path)
    options.architecture = "llama"
    row = vs_trl.measured(run, options, [])
    assert (row["rate"], row["step_s"], row["units_per_step"]) == (100.0, 3.0, 300)
    assert row["flops"] == {"all": 6 * 1000 * 300}
    assert (row["device_peak_gib"], row["process_peak_gib"], row["parts"]) == (7.5, 3.0, 1)
    options.device = "cpu"
    assert {"flops", "device_peak_gib", "parts"}.isdisjoint(vs_trl.measured(run, options, []))


def test_model_flops_by_hand(load):
    accelerator, vs_trl = load("accelerator"), load("vs_trl")
    assert accelerator.flops_of("sft", 1e9, 30_000) == {"all": 1.8e14}
    assert accelerator.flops_of("reward", 10, 100) == {"all": 6000}
    assert accelerator.flops_of("generate", 10, 100) == {"all": 2000}
    ppo = {"generate": 2000, "score": 6000, "optimize": 12000}
    assert accelerator.flops_of("ppo", 10, 100) == ppo
    # 180 TFLOP in half a second is 360 TFLOP/s of 900
    assert accelerator.share(1.8e14, 0.5, 9e14) == pytest.approx(0.4)
    sizes = vs_trl.Sizes({}, comparisons=3, episodes=5, generated=7)
    counts = {"tokens_per_comparison": 50.0, "tokens_per_prompt": 10.0}
    tokens = {work: vs_trl.step_tokens(work, sizes, counts, 100.0) for work in vs_trl.UNITS}
    assert tokens == {"sft": 100, "reward": 150, "generate": 170, "ppo": 150}


def test_reports_of_a_device_have_mfu_and_its_memory(load):
    report = load("trl_report")
    times = {"generate": 4.0, "score": 1.0, "optimize": 5.0}
    flops = {"generate": 2e15, "score": 3e14, "optimize": 1.2e15}
    more = {"phases_s": times, "step_s": 10.0, "flops": flops, "work": "ppo"}
    group = [row("heedful", ["bf16"], 50.0, device_peak_gib=peak, **more) for peak in (8.0, 9.0)]
    text = report.report(group, {"device": "cuda"}, 1e15)
    head, _, line = text.splitlines()[6:9]
    cells = dict(zip(head.split(" | "), line.split(" | "), strict=True))
    # 3.5 PFLOP in 10 s, and 2, 0.3 and 1.2 PFLOP in 4, 1 and 5 s, at 1 PFLOP/s
    assert cells["MFU"] == "35.0%"
    shares = [cells[f"{phase} MFU"] for phase in times]
    assert shares == ["50.0%", "30.0%", "24.0%"]
    assert (cells["device peak GiB"], cells["peak GiB"]) == ("9", "1")
    assert "MFU" not in report.report(group, {"device": "cpu"})
    assert "device peak" not in report.report(group, {"device": "cpu"})


def test_the_head_of_the_results_has_the_peak(load, tmp_path, monkeypatch):
    vs_trl = load("vs_trl")
    found_device(load, monkeypatch, flops_per_s=7.89e14)
    options = vs_trl.parse(["--device", "cuda", "--out", str(tmp_path)])
    vs_trl.write_results([], options, vs_trl.conditions(options))
    machine = json.loads((tmp_path / "results.json").read_text())["machine"]
    assert (machine["device_name"], machine["bf16_matmul_tflops"]) == ("Some GPU", 789.0)
    assert "bf16_matmul_tflops 789.0" in (tmp_path / "results.md").read_text()
    on_cpu = vs_trl.parse(["--out", str(tmp_path)])
    vs_trl.write_results([], on_cpu, vs_trl.conditions(on_cpu))
    assert "bf16_matmul_tflops" not in (tmp_path / "results.md").read_text()


def test_the_peak_of_a_device_is_measured_once(load, tmp_path, monkeypatch, capsys):
    accelerator, rates = load("accelerator"), iter((5e14, 6e14))
    asked = []

    def matmul_rate(shape, dtype, **more):
        asked.append((shape, dtype, more["device"]))
        return next(rates)

    monkeypatch.setattr("heedful.training.profiling.matmul_rate", matmul_rate)
    monkeypatch.setattr(sys, "argv", ["accelerator.py", str(tmp_path / "device.json")])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert accelerator.main() == 1
    assert "no CUDA device" in capsys.readouterr().out
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name, expected in (("A", 5e14), ("A", 5e14), ("B", 6e14)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda name=name: name)
        assert accelerator.main() == 0
        found = json.loads((tmp_path / "device.json").read_text())
        assert found == {"device_name": name, "matmul_flops_per_s": expected}
    assert asked == [((8192, 8192, 8192), torch.bfloat16, "cuda")] * 2


def fake_python(tmp_path, versions, has):
    """An interpreter that answers, whatever it is asked."""
    answer = json.dumps([versions, has])
    file = tmp_path / "python"
    file.write_text(f"#!/bin/sh\necho something else\necho '{answer}'\n")
    file.chmod(0o755)
    return file


WITHOUT_PPO = {
    "trl.SFTTrainer": True,
    "trl.experimental.ppo": False,
    "datasets": True,
    "flash_attn": False,
}


def test_an_interpreter_without_ppo_has_no_runs_of_it(load, tmp_path, capsys):
    vs_trl = load("vs_trl")
    versions = {"trl": "1.13.0", "transformers": "5.0.0", "torch": None}
    python = fake_python(tmp_path, versions, WITHOUT_PPO)
    call = ["--only", "ppo,sft", "--quick", "--dry-run", "--peer-python", str(python)]
    assert vs_trl.main(call) == 0
    said = capsys.readouterr()
    names = said.out.split()
    assert [name for name in names if "ppo" in name] == [
        "ppo-quick-heedful-bf16-0",
        "ppo-quick-heedful-bf16-recompute-0",
        "ppo-quick-heedful-fp32-0",
    ]
    assert len([name for name in names if name.startswith("sft-quick-peer")]) == 9
    assert "ppo is left out" in said.err
    assert "(trl 1.13.0, transformers 5.0.0) has no trl.experimental.ppo" in said.err


def test_flash_attention_is_a_variant_where_it_is(load, tmp_path):
    peers, vs_trl = load("peers"), load("vs_trl")
    python = fake_python(tmp_path, {"trl": "1.16.0"}, WITHOUT_PPO | {"flash_attn": True})
    peer = peers.given(python, ["sft"])
    assert peer == (("sft",), ("sft",), "trl 1.16.0")
    names = [run.name for run in vs_trl.plan(["sft"], ["0.1b"], 1, peer)]
    assert "sft-0.1b-peer-autocast-bfd-flash-0" in names
    names = [run.name for run in vs_trl.plan(["sft"], ["0.1b"], 1, peers.Peer())]
    assert not any("flash" in name for name in names)
    options = SimpleNamespace(peer_python=None, peers=tmp_path)
    assert peers.python_of("ppo", options) == tmp_path / "trl-1.12" / "bin" / "python"
    options.peer_python = python
    assert peers.python_of("ppo", options) == python


def test_an_interpreter_is_asked(load):
    parts = ("json", "no_such_module", "collections.OrderedDict", "collections.NoSuchClass")
    packages = ("pytest", "no-such-package")
    versions, has = load("peers").ask(Path(sys.executable), packages, parts)
    assert versions == {"pytest": pytest.__version__, "no-such-package": None}
    assert list(has.values()) == [True, False, True, False]


def test_tables_show_the_memory_of_a_device(load):
    generate, scaling, roofline = load("generate"), load("scaling"), load("roofline")
    about = {"model": "0.1b", "dtype": "bf16", "batch": 4, "samples": 1, "tokens_per_s": 5.0}
    rows = [about | {"peak_gib": 1.0, "others": 0.0, "device_peak_gib": 2.5}]
    assert "| 1 | 2.5 | 0% |" in generate.table(rows)
    del rows[0]["device_peak_gib"]
    assert "device peak" not in generate.table(rows)
    values = {"step_s": 1.0, "process_peak_gib": 1.5, "process_others": 0.0}
    points = [scaling.Point("sft", tokens=tokens) for tokens in (32, 64)]
    found = {
        point.name: values | {"device_peak_gib": peak}
        for point, peak in zip(points, (3.0, 6.0), strict=True)
    }
    table, _, exponents = scaling.section(points, "length", found, idle_gib=0.0)
    assert "device peak GiB" in table
    assert exponents.endswith("memory of the device with 1.00")
    rates = {"seconds": 0.5, "matmul_flops_per_s": 4e14, "share_of_peak": 0.5}
    run = {"model": "0.1b", "command": "sft", "dtype": "bf16", "threads": 1, "phases": []}
    speeds = {"tokens_per_s": 1.0, "flops_per_s": 3e14, "peak_gib": 1.0, "device_peak_gib": 7.0}
    page = roofline.page_of([run | rates | speeds | values], {"device": "cuda"})
    assert "| all | 0.500 | 100% | 400.0 | 50.0% |" in page
    assert "| 300.0 | 1.00 | 7.00 | 0% |" in page
    on_cpu = roofline.page_of([run | rates | speeds | values], {"device": "cpu"})
    assert "| 300,000.0 | 1.00 | 0% |" in on_cpu
    runs = [
        {"work": "sft", "side": "heedful", "variant": ["bf16"], "model": model}
        | {"process_peak_gib": 2.0, "device_peak_gib": peak}
        for model, peak in (("0.1b", 3.0), ("1.5b", 30.0))
    ]
    # 27 GiB for 1,332,960,512 weights more: 21.75 bytes each
    assert "| sft | heedful bf16 | 21.7 |" in load("largest").table(runs, 139)


def test_a_pretended_device_is_measured(load, tmp_path, monkeypatch, cuda):
    """Ours; the models are made without it, which cannot build on what is pretended."""
    generate, roofline, workload = load("generate"), load("roofline"), load("workload")
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        workload.make_workload(small_workload(workload), tmp_path)
    call = ["--device", "cuda", "--workload", str(tmp_path), "--max-new-tokens", "6"]
    options = generate.parse([*call, "--threads", str(torch.get_num_threads()), "--calls", "2"])
    result = generate.one_setting(options, "fp32", 4, 2)
    assert len(result["steps_s"]) == len(result["units"]) == 2
    assert result["device_peak_gib"] == torch.cuda.max_memory_allocated() / 2**30 > 0
    monkeypatch.setattr(roofline, "ROWS", {"decode": 2, "chunk": 3, "batch": 4})
    monkeypatch.setattr(roofline, "COPY_MIB", (1,))
    for name in ("RATE_S", "COPY_S"):
        monkeypatch.setattr(roofline, name, 0.0)
    threads = torch.get_num_threads()
    rates = roofline.machine_rates(roofline.shapes_of(["quick"]), threads, ["bf16"], "cuda")
    assert all(rate.get("flops_per_s", rate.get("bytes_per_s")) > 0 for rate in rates)
    config = workload.architecture_config("llama", workload.SHAPES["quick"])
    moved = []
    for device in ("cpu", "cuda"):  # responses are made to end on either
        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_config(config).eval().to(device)
        workload.set_end_chance(model, 0.1, 20)
        moved.append(float(model.get_output_embeddings().weight.detach()[1, 0].cpu()))
    assert moved[0] == pytest.approx(moved[1], rel=1e-5)
