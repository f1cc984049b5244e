"""Recipes that extend another, and stages that are like another."""

from pathlib import Path

import pytest

from heedful.commands.recipe_tables import read_recipe
from heedful.errors import ConfigError


def write(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


def test_tables_of_the_other_recipe_are_merged_key_by_key(tmp_path: Path) -> None:
    write(
        tmp_path, "a.toml", 'jobs = 2\n[stage.x]\ncommand = "sft"\noptim = { lr = 1.0, eps = 2 }\n'
    )
    path = write(tmp_path, "b.toml", 'extends = "a.toml"\n[stage.x]\noptim = { lr = 3.0 }\n')
    assert read_recipe(path) == {
        "jobs": 2,
        "stage": {"x": {"command": "sft", "optim": {"lr": 3.0, "eps": 2}}},
    }


def test_a_stage_like_another_takes_its_settings_and_changes_some(tmp_path: Path) -> None:
    text = '[stage.x]\ncommand = "ppo"\nseed = 0\ndata = { use = "ppo" }\n'
    text += '[stage.y]\nlike = "x"\nseed = 1\n[stage.z]\nlike = "y"\nseed = 2\n'
    stages = read_recipe(write(tmp_path, "a.toml", text))["stage"]
    assert stages["z"] == {"command": "ppo", "seed": 2, "data": {"use": "ppo"}}
    assert stages["x"]["seed"] == 0 and stages["y"]["seed"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[stage.x]\nlike = "gone"\n', "does not exist"),
        ('[stage.x]\nlike = "y"\n[stage.y]\nlike = "x"\n', "circle"),
        ('extends = "a.toml"\n', "extends itself"),
    ],
)
def test_what_cannot_be_resolved_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_recipe(write(tmp_path, "a.toml", text))
