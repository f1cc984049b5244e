"""What a training command leaves behind: the published model with its lineage."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from heedful.config import PPOConfig, PretrainConfig, RewardConfig, Section, SFTConfig
from heedful.data.rows import HUB, ROW_SUFFIXES, TEXT_SUFFIXES, find_files
from heedful.data.template import Template
from heedful.errors import DataError
from heedful.models.language_model import num_parameters, read_lineage
from heedful.training.checkpoint import FINAL_MODEL, drop_state, git_state, publish

SNAPSHOT_FILES = ("demonstrations", "comparisons", "prompts")  # what a snapshot directory holds


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
        digest.update(parameter.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def lineage_of(path: str) -> dict[str, Any]:
    """A parent's directory, the hash of its weights and the step that made it, where known."""
    own = read_lineage(path)
    return {"path": str(path), "sha256": own.get("sha256"), "step": own.get("step")}


def data_hashes(config: Section) -> dict[str, str]:
    """sha256 of every data file that the settings name (folders and globs by their files).

    A folder gives the files that training reads of it, so that a model is found by the snapshot
    that it was trained on. What has gone since is named too, as missing.
    """
    data = getattr(config, "data", None)
    hashes: dict[str, str] = {}
    for name, value in ({} if data is None else data.model_dump()).items():
        kind = name if name in SNAPSHOT_FILES else None
        for source in value if isinstance(value, tuple | list) else ():
            try:
                files = find_files(source, (*TEXT_SUFFIXES, *ROW_SUFFIXES), kind)
            except DataError:  # a model that took days is not lost for a file that was moved
                hashes[str(source)] = "missing"
                continue
            for file in files:
                if not file.startswith(HUB):
                    with Path(file).open("rb") as content:
                        hashes[file] = hashlib.file_digest(content, "sha256").hexdigest()
    return hashes
