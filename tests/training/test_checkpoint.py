"""Published directories and training states: what is in them, and what a full disk does to them."""

from __future__ import annotations

import contextlib
import errno
import json
import resource
from collections.abc import Iterator

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from heedful.config import PretrainConfig
from heedful.data.template import Template
from heedful.errors import CheckpointError
from heedful.training import checkpoint
from heedful.training.checkpoint import (
    config_fingerprint,
    drop_state,
    load_state,
    publish,
    recover,
    save_state,
    start_run,
)


def settings(**changes):
    values = {"run_dir": "runs/a", "tokenizer": "t", "data": {}}
    values["optim"] = {"lr": 1e-3, "batch_size": 4}
    return PretrainConfig.model_validate(values | changes)


def state(value: float) -> dict:
    return {"weights": torch.full((1000,), value), "fingerprint": "f"}


def test_a_published_directory_is_plain_and_has_its_lineage(tiny_model, tokenizer, tmp_path):
    model = tiny_model("llama")
    template = Template(tokenizer)
    place = publish(model, tokenizer, tmp_path / "model", {"step": "sft"}, template.save)
    names = {path.name for path in place.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "heedful.json"} <= names
    assert json.loads((place / "heedful.json").read_text()) == {"step": "sft"}
    assert json.loads((place / "heedful_template.json").read_text())["kind"] == "plain"
    assert "heedful" not in (place / "config.json").read_text()
    assert model.config._attn_implementation == "heedful"

    loaded = AutoModelForCausalLM.from_pretrained(place)
    for (name, mine), other in zip(model.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(mine, other), name
    assert AutoTokenizer.from_pretrained(place).get_vocab() == tokenizer.get_vocab()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_publishing_again_replaces_the_whole_directory(tiny_model, tokenizer, tmp_path):
    publish(tiny_model(seed=0), tokenizer, tmp_path / "model", {"step": "first"})
    (tmp_path / "model" / "left over").write_text("x")
    publish(tiny_model(seed=1), tokenizer, tmp_path / "model", {"step": "second"})
    assert not (tmp_path / "model" / "left over").exists()
    assert json.loads((tmp_path / "model" / "heedful.json").read_text())["step"] == "second"


def test_the_newest_state_is_the_only_one(tmp_path):
    assert load_state(tmp_path, "f") is None
    for step in (5, 10):
        save_state(tmp_path, step, state(step))
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-00000010.pt"]
    loaded = load_state(tmp_path, "f")
    assert loaded["step"] == 10
    assert torch.equal(loaded["weights"], torch.full((1000,), 10.0))
    drop_state(tmp_path)
    assert load_state(tmp_path, "f") is None


def test_other_settings_do_not_go_on(tmp_path):
    save_state(tmp_path, 5, state(1.0))
    with pytest.raises(CheckpointError, match=r"step-00000005.pt was made with other settings"):
        load_state(tmp_path, "g")


def test_a_broken_state_is_named(tmp_path):
    save_state(tmp_path, 5, state(1.0))
    path = tmp_path / "state" / "step-00000005.pt"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match=r"step-00000005.pt cannot be read"):
        load_state(tmp_path, "f")


def test_the_fingerprint_is_of_what_changes_the_result():
    first = config_fingerprint(settings(), 10)
    same = {"run_dir": "runs/b", "log": {"save_every": 3}}
    same["compute"] = {"threads": 2, "tokens_per_microbatch": 64}
    assert config_fingerprint(settings(**same), 10) == first
    assert config_fingerprint(settings(), 11) != first
    assert config_fingerprint(settings(seed=1), 10) != first
    assert config_fingerprint(settings(optim={"lr": 2e-3, "batch_size": 4}), 10) != first


def test_a_run_writes_its_settings_and_where_it_ran(tmp_path):
    start_run(settings(), tmp_path / "run")
    assert 'tokenizer = "t"' in (tmp_path / "run" / "config.toml").read_text()
    environment = json.loads((tmp_path / "run" / "env.json").read_text())
    assert environment["torch"] == torch.__version__


@contextlib.contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Within, no file of this process grows beyond ``size`` bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_last_good_checkpoint(tiny_model, tokenizer, tmp_path):
    save_state(tmp_path, 5, state(1.0))
    publish(tiny_model(), tokenizer, tmp_path / "model", {"step": "first"})
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    assert len(before) > 40_000
    large = {"weights": torch.randn(100_000), "fingerprint": "f"}
    advice = "free some space and run again with --resume"
    with files_up_to(40_000):
        with pytest.raises(CheckpointError, match=f"state of step 9 could not be .*{advice}"):
            save_state(tmp_path, 9, large)
        with pytest.raises(CheckpointError, match=f"model could not be written.*{advice}"):
            publish(tiny_model(seed=1), tokenizer, tmp_path / "model", {"step": "second"})

    assert load_state(tmp_path, "f")["step"] == 5
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "state"]
    assert len(list((tmp_path / "state").iterdir())) == 1


def test_a_disk_that_fills_up_at_the_lineage(tiny_model, tokenizer, tmp_path):
    publish(tiny_model(), tokenizer, tmp_path / "model", {"step": "first"})

    def full(directory):
        raise OSError(errno.ENOSPC, "No space left on device")

    model = tiny_model(seed=1)
    with pytest.raises(CheckpointError, match="No space left on device"):
        publish(model, tokenizer, tmp_path / "model", {"step": "second"}, full)
    assert model.config._attn_implementation == "heedful"
    assert json.loads((tmp_path / "model" / "heedful.json").read_text())["step"] == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_kill_between_the_renames_leaves_the_old_model(
    tiny_model, tokenizer, tmp_path, monkeypatch
):
    publish(tiny_model(), tokenizer, tmp_path / "model", {"step": "first"})
    calls = []

    def rename(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(source, target)

    original = checkpoint.os.replace
    monkeypatch.setattr(checkpoint.os, "replace", rename)
    with pytest.raises(KeyboardInterrupt):
        publish(tiny_model(seed=1), tokenizer, tmp_path / "model", {"step": "second"})
    monkeypatch.undo()
    old = tmp_path / "model.old" / "heedful.json"
    assert json.loads(old.read_text())["step"] == "first"
    start_run(settings(), tmp_path)  # as every command begins
    assert json.loads((tmp_path / "model" / "heedful.json").read_text())["step"] == "first"
    assert not old.exists()
    for name in ("config.toml", "env.json"):
        (tmp_path / name).unlink()
    publish(tiny_model(seed=1), tokenizer, tmp_path / "model", {"step": "third"})
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_kill_after_the_renames_leaves_the_new_model_alone(tiny_model, tokenizer, tmp_path):
    publish(tiny_model(), tokenizer, tmp_path / "model", {"step": "second"})
    publish(tiny_model(), tokenizer, tmp_path / "model.old", {"step": "first"})
    recover(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert json.loads((tmp_path / "model" / "heedful.json").read_text())["step"] == "second"


def test_the_only_model_is_put_back_before_a_new_one_is_written(
    tiny_model, tokenizer, tmp_path, monkeypatch
):
    """Killed once more at the same place, the second run leaves it as the first did."""
    publish(tiny_model(), tokenizer, tmp_path / "model.old", {"step": "first"})
    original, renamed = checkpoint.os.replace, []

    def rename(source, target):
        if source.name == "model.partial":
            raise KeyboardInterrupt
        renamed.append((source.name, target.name))
        return original(source, target)

    monkeypatch.setattr(checkpoint.os, "replace", rename)
    with pytest.raises(KeyboardInterrupt):
        publish(tiny_model(seed=1), tokenizer, tmp_path / "model", {"step": "second"})
    assert renamed == [("model.old", "model"), ("model", "model.old")]
    old = tmp_path / "model.old" / "heedful.json"
    assert json.loads(old.read_text())["step"] == "first"
