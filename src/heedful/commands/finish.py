"""What a training command leaves behind: the published model with its lineage."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from heedful.config import PPOConfig, PretrainConfig, RewardConfig, Section, SFTConfig
from heedful.data.template import Template
from heedful.models.language_model import num_parameters, read_lineage
from heedful.training.checkpoint import FINAL_MODEL, drop_state, git_state, publish


def finish(
    config: PretrainConfig | SFTConfig | RewardConfig | PPOConfig,
    model: Any,
    tokenizer: Any,
    step: str,
    parents: dict[str, str],
    metrics: dict[str, float],
    template: Template | None,
) -> None:
    """Publishes a trained model with its lineage, and drops the training state."""
    run_dir = Path(config.run_dir)
    lineage = {
        "step": step,
        "parents": {name: lineage_of(path) for name, path in parents.items()},
        "data": data_hashes(config),
        "config": config.model_dump(mode="json"),
        "git": git_state(),
        "parameters": num_parameters(model),
        "sha256": weights_hash(model),
        "metrics": metrics,
    }
    template = template or Template.default(tokenizer)
    publish(model, tokenizer, run_dir / FINAL_MODEL, lineage, template.save)
    drop_state(run_dir)


def weights_hash(model: Any) -> str:
    """sha256 over the names and values of all weights: the identity of a model."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(name.encode())
        digest.update(parameter.detach().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def lineage_of(path: str) -> dict[str, Any]:
    """A parent's directory, the hash of its weights and the step that made it, where known."""
    own = read_lineage(path)
    return {"path": str(path), "sha256": own.get("sha256"), "step": own.get("step")}


def data_hashes(config: Section) -> dict[str, str]:
    """sha256 of every data file that the settings name (folders and globs by their files)."""
    data = getattr(config, "data", None)
    if data is None:
        return {}
    hashes = {}
    for value in data.model_dump().values():
        for path in value if isinstance(value, tuple | list) else ():
            file = Path(path)
            if file.is_file():
                hashes[str(file)] = hashlib.sha256(file.read_bytes()).hexdigest()
    return hashes
