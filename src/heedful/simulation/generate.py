"""A world as files: text, prompts, hidden tasks, demonstrations, probes, and a manifest."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from heedful.records import Demonstration, Source, Split, to_row
from heedful.simulation.labelers import LabelerPool
from heedful.simulation.prompts import (
    Pair,
    closed_domain_prompts,
    few_shot_prefixes,
    prompts,
    recall_quiz,
    toxicity_prompts,
    truth_questions,
)
from heedful.simulation.responses import write_demonstration
from heedful.simulation.rows import write_rows
from heedful.simulation.tasks import write_tasks
from heedful.simulation.webtext import documents
from heedful.simulation.world import WORLD_FILE, World

LABELERS_FILE = "labelers.json"
NOISE_FILE = "labeler_noise.json"  # written by the first labeling
PROMPTS_FILE = "prompts.jsonl"
TASKS_FILE = "tasks.jsonl"
MANIFEST_FILE = "manifest.json"
# Shares of labeler-written prompts; the rest are customers' (paper Table 6).
LABELER_SHARE = {"sft": 0.89, "rm": 0.2, "ppo": 0.0, "valid": 0.25, "test": 0.0}


def write_world(
    directory: Path,
    *,
    seed: int = 0,
    num_documents: int = 60_000,
    num_valid_documents: int = 1_000,
    num_sft_prompts: int = 2_000,
    num_rm_prompts: int = 3_000,
    num_ppo_prompts: int = 3_000,
    num_valid_prompts: int = 500,
    num_test_prompts: int = 500,
    num_characters: int = 64,
    num_heldout: int = 16,
    num_candidates: int = 24,
    num_train_labelers: int = 8,
    num_heldout_labelers: int = 5,
    num_probe_prompts: int = 200,
) -> dict[str, int]:
    """Counts of what was written. The same arguments give the same bytes.

    ``world.json`` and ``labelers.json`` rebuild world and labelers; ``tasks.jsonl`` is the hidden
    truth about every prompt and probe; ``manifest.json`` holds counts and sha256 of every file.
    """
    directory = Path(directory)
    (directory / "probes").mkdir(parents=True, exist_ok=True)
    (directory / NOISE_FILE).unlink(missing_ok=True)  # fitted to the labels of another world
    world = World(seed, num_characters, num_heldout)
    world.save(directory)
    pool = LabelerPool.build(
        world,
        seed,
        num_candidates=num_candidates,
        num_train=num_train_labelers,
        num_heldout=num_heldout_labelers,
    )
    pool.save(directory / LABELERS_FILE)
    counts = {}
    for name, num in (("text", num_documents), ("text_valid", num_valid_documents)):
        texts = documents(world, num, _rng(seed, name))
        counts[name] = write_rows(directory / f"{name}.jsonl", ({"text": text} for text in texts))
    sizes = {"sft": num_sft_prompts, "rm": num_rm_prompts, "ppo": num_ppo_prompts}
    sizes |= {"valid": num_valid_prompts, "test": num_test_prompts}
    found = {part: _prompts(world, part, num, seed) for part, num in sizes.items()}
    rows = (_prompt_row(pair, part) for part, pairs in found.items() for pair in pairs)
    counts["prompts"] = write_rows(directory / PROMPTS_FILE, rows)
    rng = _rng(seed, "demonstrations")
    demonstrations = _demonstrations(world, pool, [*found["sft"], *found["valid"]], rng)
    counts["demonstrations"] = write_rows(directory / "demonstrations.jsonl", demonstrations)
    probes = _write_probes(world, directory, num_probe_prompts, seed, counts)
    pairs = [pair for group in found.values() for pair in group] + probes
    tasks = ((prompt.id, task) for prompt, task in pairs)
    counts["tasks"] = write_tasks(directory / TASKS_FILE, tasks)
    _write_manifest(directory, seed, counts)
    return counts


def _rng(seed: int, purpose: str) -> random.Random:
    return random.Random(f"{seed}-{purpose}")


def _prompts(world: World, part: str, num: int, seed: int) -> list[Pair]:
    split: Split = "valid" if part == "valid" else "test" if part == "test" else "train"
    sources: tuple[Source, Source] = ("labeler", "api")
    by_labelers = round(num * LABELER_SHARE[part])
    found: list[Pair] = []
    for source, count in zip(sources, (by_labelers, num - by_labelers), strict=True):
        rng = _rng(seed, f"prompts-{part}-{source}")
        prefix = f"{part}-{source}"
        found += prompts(world, count, split, rng, source=source, prefix=prefix)
    return found


def _prompt_row(pair: Pair, part: str) -> dict[str, Any]:
    return to_row(pair[0]) | {"use": "eval" if part in ("valid", "test") else part}


def _demonstrations(
    world: World, pool: LabelerPool, pairs: Iterable[Pair], rng: random.Random
) -> Iterable[dict[str, Any]]:
    for prompt, task in pairs:
        writer = rng.choice(pool.train)
        response = write_demonstration(world, task, rng, writer.errors)
        yield to_row(Demonstration(prompt.id, prompt.text, response, writer.id, prompt.split))


def _write_probes(
    world: World, directory: Path, num: int, seed: int, counts: dict[str, int]
) -> list[Pair]:
    """The probes' prompts with their tasks, after their files were written."""
    groups = {
        "truth": truth_questions(world, _rng(seed, "truth"), heldout=False),
        "truth_heldout": truth_questions(world, _rng(seed, "truth_heldout"), heldout=True),
        "closed": closed_domain_prompts(world, num, _rng(seed, "closed")),
    }
    for instruction in ("none", "respectful", "biased"):
        rng = _rng(seed, "toxicity")  # the same openings under each instruction
        groups[f"toxicity_{instruction}"] = toxicity_prompts(world, instruction, num, rng)
    for name, pairs in groups.items():
        heldout = name == "truth_heldout"
        rows = ({"id": p.id, "text": p.text, "heldout": heldout} for p, _ in pairs)
        counts[f"probes/{name}"] = write_rows(directory / "probes" / f"{name}.jsonl", rows)
    recall = recall_quiz(world, _rng(seed, "recall"))
    counts["probes/recall"] = write_rows(directory / "probes" / "recall.jsonl", recall)
    prefixes = few_shot_prefixes(world, 8, _rng(seed, "prefixes"))
    counts["fewshot_prefixes"] = write_rows(directory / "fewshot_prefixes.jsonl", prefixes)
    return [pair for pairs in groups.values() for pair in pairs]


def _write_manifest(directory: Path, seed: int, counts: Mapping[str, int]) -> None:
    names = [WORLD_FILE, LABELERS_FILE, *(f"{name}.jsonl" for name in counts)]
    files = {}
    for name in names:
        digest = hashlib.sha256((directory / name).read_bytes()).hexdigest()
        files[name] = {"rows": counts.get(name.removesuffix(".jsonl"), 1), "sha256": digest}
    row = {"seed": seed, "files": files}
    (directory / MANIFEST_FILE).write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
