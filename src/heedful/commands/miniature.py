"""heed simulate and heed label: the miniature world as files, and its labelers at work."""

from __future__ import annotations

import json
from pathlib import Path

from heedful.commands.train import begin
from heedful.config import LabelConfig, SimulateConfig
from heedful.metrics import replacing
from heedful.simulation.generate import write_world
from heedful.simulation.labeling import label

COMPARISONS_FILE = "comparisons.jsonl"
HELDOUT_FILE = "comparisons_heldout.jsonl"
LABELS_FILE = "labels.json"


def run_simulate(config: SimulateConfig, resume: bool = False) -> None:
    """Writes a world: text, prompts, hidden tasks, demonstrations, probes."""
    config, run_dir, progress = begin(config, resume)
    write_world(run_dir, **config.model_dump(exclude={"run_dir"}))
    progress(1, 1)


def run_label(config: LabelConfig, resume: bool = False) -> None:
    """Writes comparisons.jsonl (training labelers) and comparisons_heldout.jsonl (validation)."""
    config, run_dir, progress = begin(config, resume)
    world = Path(config.world)
    counts = {}
    parts = [
        ("train", config.completions, COMPARISONS_FILE, "train"),
        ("valid", config.completions_valid, "comparisons_valid.jsonl", "train"),
        ("heldout", config.completions_valid, HELDOUT_FILE, "heldout"),
    ]
    for number, (name, completions, out, cohort) in enumerate(parts):
        with replacing(run_dir / out) as partial:
            counts[name] = label(
                world,
                Path(completions),
                partial,
                seed=config.seed,
                labels_per_prompt=config.labels_per_prompt,
                overlap=config.overlap,
                cohort=cohort,  # type: ignore[arg-type]
            )
        progress(number + 1, len(parts))
    with replacing(run_dir / LABELS_FILE) as partial:
        partial.write_text(json.dumps(counts, indent=2), encoding="utf-8")
