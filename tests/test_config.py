"""Settings: errors that name the key, overrides, and TOML that reads back as it was written."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
from pydantic import ValidationError

from heedful import config as configs
from heedful.config import (
    EvaluateConfig,
    PPOConfig,
    PretrainConfig,
    Section,
    SFTConfig,
    changed_settings,
    dump_toml,
    load_config,
    make_config,
)
from heedful.errors import ConfigError

COMMANDS = [
    thing
    for thing in vars(configs).values()
    if isinstance(thing, type) and issubclass(thing, Section) and "run_dir" in thing.model_fields
]
SFT = """
run_dir = "runs/sft"
base = "base/model"
[data]
demonstrations = ["a.jsonl"]
[optim]
lr = 1e-4
batch_size = 32
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "sft.toml"
    path.write_text(SFT)
    return path


def example(cls: type[Section]) -> dict[str, Any]:
    """Values for the required keys of a command, by their types."""
    values: dict[str, Any] = {}
    for name, field in cls.model_fields.items():
        if not field.is_required():
            continue
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            values[name] = example(kind)
        elif kind in (int, float):
            values[name] = 1
        elif kind is str:
            values[name] = "name"
        elif getattr(kind, "__origin__", None) is dict:
            values[name] = {"sft": "runs/sft"}
        else:
            (item, *_) = kind.__args__
            values[name] = [item and (example(item) if issubclass(item, Section) else "name")]
    return values


def test_a_file_gives_its_values_and_the_defaults(file):
    config = load_config(SFTConfig, file)
    assert config.base == "base/model"
    assert config.data.demonstrations == ("a.jsonl",)
    assert (config.optim.lr, config.optim.batch_size) == (1e-4, 32)
    # what the paper says (C.1), where the file is silent
    assert (config.epochs, config.dropout, config.optim.final_lr_share) == (16, 0.2, 0.1)
    assert config.optim.betas == (0.9, 0.95)


def test_the_defaults_of_step_3_are_the_papers():
    ppo = configs.PPO()
    assert (ppo.episodes, ppo.batch_size, ppo.minibatch_size, ppo.epochs) == (256_000, 512, 64, 1)
    assert (ppo.kl_coef, ppo.clip, ppo.discount, ppo.ema_decay) == (0.02, 0.2, 1.0, 0.992)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("epochs=2", ("epochs", 2)),
        ("optim.lr=3e-5", ("optim.lr", 3e-5)),
        ("loss_on_prompt=true", ("loss_on_prompt", True)),
        ('base="other"', ("base", "other")),
        ("base=other/model", ("base", "other/model")),
        ('data.text=["a", "b"]', ("data.text", ("a", "b"))),
        ("data.text=a.txt", ("data.text", ("a.txt",))),
        ("log.sinks=wandb", ("log.sinks", ("wandb",))),
        ("data.max-prompt-tokens=7", ("data.max_prompt_tokens", 7)),
        ("run-dir=runs/a-b", ("run_dir", "runs/a-b")),
        ("log.save_every=0", ("log.save_every", 0)),
        ("run_dir=runs/a=b", ("run_dir", "runs/a=b")),
    ],
)
def test_an_override_wins(file, override, expected):
    config: Any = load_config(SFTConfig, file, [override])
    for part in expected[0].split("."):
        config = getattr(config, part)
    assert config == expected[1]


def test_overrides_alone_are_enough():
    values = ["run_dir=r", "base=b", "optim.lr=1e-4", "optim.batch_size=8", "data={}"]
    assert load_config(SFTConfig, None, values).optim.batch_size == 8
    with pytest.raises(ConfigError) as wrong:
        load_config(SFTConfig, None, [values[0]])
    assert str(wrong.value) == (
        "the command line: missing key 'base' (Directory of the model to start from): write "
        "--base=DIR; missing key 'optim.lr' (Peak learning rate): write --optim.lr=NUMBER; missing "
        "key 'optim.batch_size' (Examples (SFT), prompts (reward model) or rows of text "
        "(pretraining) per update): write --optim.batch_size=NUMBER"
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epoch=3", r"^the command line: unknown key 'epoch': did you mean 'epochs'\?"),
        ("optim.learning_rte=1", r"unknown key 'optim\.learning_rte'"),
        ("optim.learning_rate=1", r"'optim\.learning_rate': did you mean 'optim\.lr'\?"),
        ("learning_rate=1", r"'learning_rate': did you mean 'optim\.lr'\?"),
        ("lr=1", r"unknown key 'lr': did you mean 'optim\.lr'\?"),
        ("optin.lr=1", r"unknown key 'optin\.lr': did you mean 'optim\.lr'\?"),
        ("ppo.max_new_tokens=1", r"did you mean 'sampling\.max_new_tokens'\?"),
        ("model=b", r"unknown key 'model': did you mean 'base'\?"),
        ("optim.batchsize=1", r"'optim\.batchsize': did you mean 'optim\.batch_size'\?"),
        ("data.text=3", r"data\.text = 3: it needs a list .*, such as --data\.text=FILE$"),
        ("zzz=1", r"unknown key 'zzz': known keys: base, compute, data"),
        (
            "epochs=many",
            r"epochs = 'many': it needs a number \(Passes over .*\), such as --epochs=16$",
        ),
        ("seed=1.5", r"seed = 1\.5: it needs a whole number .*, such as --seed=0$"),
        ("optim.lr=high", r"optim\.lr = 'high': it needs a number .*such as --optim\.lr=NUMBER$"),
        ("loss_on_prompt=3", r"= 3: it needs true or false .*such as --loss_on_prompt=false$"),
        ("epochs=0", r"epochs = 0: .*greater than 0"),
        ("dropout=1.5", r"dropout = 1\.5: .*less than or equal to 1"),
        ("optim.schedule=linear", r"optim\.schedule = 'linear': .*'cosine' or 'constant'"),
        ("epochs", r"override 'epochs' is not of the form section\.key=value"),
        ("=3", r"override '=3' is not of the form"),
        ("base.name=3", r"override 'base\.name=3': base is a value, not a section"),
    ],
)
def test_a_mistake_names_the_key_and_the_mend(file, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(SFTConfig, file, [override])


def test_an_unknown_key_in_a_list_of_sections_is_named():
    values = example(configs.SampleConfig)
    values["models"] = [{"name": "a", "path": "b", "pth": "c"}]
    with pytest.raises(ConfigError, match=r"'models\.0\.pth': did you mean 'models.0.path'\?"):
        make_config(configs.SampleConfig, values, "here")


def test_all_mistakes_are_said_at_once(file):
    with pytest.raises(ConfigError, match=r"dropout = 2: .*; unknown key 'epoch'"):
        load_config(SFTConfig, file, ["epoch=3", "dropout=2"])


def test_a_mistake_is_told_from_one_in_the_file(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text(
        'run_dir = "r"\nbase = "b"\n[data]\n[optim]\nlr = "x"\nbatch_size = 1\nmom = 1\n'
    )
    with pytest.raises(ConfigError) as wrong:
        load_config(SFTConfig, file, ["epoch=3", "optim.mon=2", "seed=x"])
    typed, _, in_file = str(wrong.value).partition(f"; {file}: ")
    assert typed.startswith("the command line: ")
    assert all(key in typed for key in ("'epoch'", "'optim.mon'", "--seed=0"))
    assert "'optim.mom'" in in_file and "such as optim.lr = NUMBER" in in_file
    assert not any(key in in_file for key in ("'epoch'", "'optim.mon'", "seed"))
    with pytest.raises(ConfigError, match=r"^the command line: .*: write --optim.batch_size=NUM"):
        load_config(SFTConfig, file, ["optim={lr=1.0}"])


@pytest.mark.parametrize(
    ("override", "example"),
    [("limit=twenty", "--limit=NUMBER"), ("split=tests", "--split=train"), ("limit=0", "NUMBER")],
)
def test_the_example_of_a_setting_that_may_be_left_out_has_its_type(override, example):
    values = ["run_dir=r", "prompts=p", "models=[{name='a', path='b'}]", override]
    with pytest.raises(ConfigError, match=rf"such as .*{example}$"):
        load_config(configs.SampleConfig, None, values)


def test_a_missing_key_is_named(tmp_path):
    (tmp_path / "a.toml").write_text('run_dir = "r"\nbase = "b"\n[data]\n[optim]\nlr = 1e-4\n')
    with pytest.raises(ConfigError, match=r"a\.toml: missing key 'optim\.batch_size' .*NUMBER$"):
        load_config(SFTConfig, tmp_path / "a.toml")
    (tmp_path / "a.toml").write_text('run_dir = "r"\nprompts = "p.jsonl"\n')
    with pytest.raises(ConfigError, match=r'write models = \[\{ name = "TEXT", path = "DIR" \}\]$'):
        load_config(configs.SampleConfig, tmp_path / "a.toml")
    with pytest.raises(ConfigError, match=r"write --models='\[\{ name = \"TEXT\", path"):
        load_config(configs.SampleConfig, None, ["run_dir=r", "prompts=p.jsonl"])
    with pytest.raises(ConfigError, match=r"'models\.0\.path' .*: write path = \"DIR\"$"):
        load_config(configs.SampleConfig, None, ["run_dir=r", "prompts=p", "models=[{name='a'}]"])


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("ppo.beta=1", "ppo.kl_coef"),
        ("ppo.gamma=1", "ppo.ptx_coef"),
        ("optim.lr=1", "ppo.lr"),
        ("episodes=1", "ppo.episodes"),
        ("ppo.kl_ceof=1", "ppo.kl_coef"),
        ("ppo.value=1", "ppo.value_lr"),
    ],
)
def test_the_words_of_the_paper_lead_to_the_key(override, key):
    values = ["run_dir=r", "policy=p", "reward_model=m", override]
    with pytest.raises(ConfigError, match=rf"did you mean '{re.escape(key)}'\?"):
        load_config(PPOConfig, None, values)


def test_the_first_word_of_keys_leads_to_all_of_them():
    keys = r"'ppo\.kl_coef' or 'ppo\.kl_target' or 'ppo\.kl_horizon'\?"
    with pytest.raises(ConfigError, match=rf"unknown key 'ppo\.kl': did you mean {keys}"):
        load_config(PPOConfig, None, ["run_dir=r", "policy=p", "reward_model=m", "ppo.kl=1"])


def test_a_wrong_value_on_the_command_line_is_mended_there():
    needed = ["run_dir=r", "base=b", "optim.lr=1", "optim.batch_size=8"]
    with pytest.raises(ConfigError, match=r"epochs = 'two': .*, such as --epochs=16$"):
        load_config(SFTConfig, None, [*needed, "epochs=two"])
    with pytest.raises(ConfigError, match=r"'cosine' or 'constant' .*--optim\.schedule=cosine$"):
        load_config(SFTConfig, None, [*needed, "optim.schedule=linear"])


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml does not exist: give the path"):
        load_config(SFTConfig, tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("run_dir = \n")
    with pytest.raises(ConfigError, match=r"broken\.toml is not valid TOML: .*line 1"):
        load_config(SFTConfig, tmp_path / "broken.toml")


def test_settings_cannot_be_changed_afterwards(file):
    config = load_config(SFTConfig, file)
    with pytest.raises(ValidationError, match="frozen"):
        config.epochs = 2


@pytest.mark.parametrize("cls", COMMANDS, ids=lambda cls: cls.__name__)
def test_every_command_is_written_and_read_back(cls, tmp_path):
    config = make_config(cls, example(cls), "here")
    path = tmp_path / "config.toml"
    path.write_text(dump_toml(config))
    assert load_config(cls, path) == config
    assert tomllib.loads(path.read_text())


def test_every_value_is_read_back():
    changes = {"seed": 7, "gold": "world", "ppo": {"missing_eos_score": "none", "kl_target": 6.0}}
    config = make_config(PPOConfig, example(PPOConfig) | changes, "here")
    again = make_config(PPOConfig, tomllib.loads(dump_toml(config)), "there")
    assert again == config
    assert again.ppo.missing_eos_score == "none"


@pytest.mark.parametrize("cls", COMMANDS, ids=lambda cls: cls.__name__)
def test_every_setting_says_what_it_means(cls):
    def sections(kind):
        yield kind
        for field in kind.model_fields.values():
            for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
                if isinstance(part, type) and issubclass(part, Section):
                    yield from sections(part)

    silent = [
        f"{section.__name__}.{name}"
        for section in sections(cls)
        for name, field in section.model_fields.items()
        if not field.description
        and not (isinstance(field.annotation, type) and issubclass(field.annotation, Section))
    ]
    assert not silent


def test_numbers_in_scientific_notation_are_numbers(file):
    """TOML wants a digit after the point; 3e-5 is what people write."""
    assert load_config(SFTConfig, file, ["optim.lr=3e-5"]).optim.lr == 3e-5
    assert load_config(PretrainConfig, None, pretrain("optim.lr=.5")).optim.lr == 0.5


def pretrain(*more: str) -> list[str]:
    return ["run_dir=r", "tokenizer=t", "data={}", "optim.batch_size=8", *more]


def test_settings_that_decide_the_result_are_compared_by_name():
    values = {"run_dir": "a", "base": "lm", "optim": {"lr": 1e-3, "batch_size": 4}, "data": {}}
    before = make_config(SFTConfig, values, "here")
    same = {"run_dir": "b", "log": {"save_every": 7}}
    same["compute"] = {"threads": 3, "tokens_per_microbatch": 5}
    assert changed_settings(before, make_config(SFTConfig, values | same, "here")) == {}
    other = {"base": "big", "optim": {"lr": 2e-3, "batch_size": 4}, "reward_model": "rm"}
    assert changed_settings(before, make_config(SFTConfig, values | other, "here")) == {
        "base": ("lm", "big"),
        "optim.lr": (1e-3, 2e-3),
        "reward_model": (None, "rm"),
    }


def test_evaluations_on_the_way_do_not_decide_what_ppo_trains():
    values = {"run_dir": "a", "policy": "p", "reward_model": "r"}
    plain = make_config(PPOConfig, values, "here")
    looked = {"eval_every": 5, "eval": {"suites": ["bias"], "data": "d", "limit": 9}}
    assert changed_settings(plain, make_config(PPOConfig, values | looked, "here")) == {}
    changed = make_config(PPOConfig, values | looked | {"seed": 1}, "here")
    assert changed_settings(plain, changed) == {"seed": (0, 1)}


def test_hyphens_in_names_that_users_choose_are_kept(tmp_path):
    file = tmp_path / "evaluate.toml"
    file.write_text('[models]\n"PPO-ptx" = "a"\n', encoding="utf-8")
    words = ["run", "world", "samples", "probes", "measures", "labels", "reward"]
    overrides = [f"{word}={word}" for word in words]
    config = load_config(EvaluateConfig, file, [*overrides, "run-dir=out", "models.PPO-ptx=b"])
    assert (config.run_dir, config.models) == ("out", {"PPO-ptx": "b"})
