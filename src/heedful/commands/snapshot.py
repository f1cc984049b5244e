"""heed snapshot: what people have answered, as files that train. Needs no torch."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from heedful.config import SnapshotConfig
from heedful.errors import ConfigError, MissingExtraError

PAIRS_FILE = "pairs/comparisons.jsonl"
CONSENSUS_FILE = "pairs/consensus.jsonl"
PARQUET_DIRECTORY = "parquet"


def run_snapshot(config: SnapshotConfig, resume: bool = False) -> None:
    """Writes the snapshot of a project into run_dir and enters it in the store."""
    try:
        from heedful.store import exports, projects, snapshot
        from heedful.store.database import open_database
    except ImportError as error:
        raise MissingExtraError(
            "the store needs SQLAlchemy: pip install 'heedful[labeling]'"
        ) from error
    if "://" not in config.database and not Path(config.database).is_file():
        raise ConfigError(f"database: {config.database} does not exist: give the store's file")
    run_dir = Path(config.run_dir)
    query = snapshot.Query(heldout=config.heldout, shared=config.shared, extra=config.extra)
    database = open_database(config.database, now=time.time())
    try:
        with database.read() as connection:
            project = projects.by_name(connection, config.project)
            written = snapshot.write(connection, project.id, run_dir, query)
        number = database.write(lambda c: snapshot.note(c, written, actor=None, now=time.time()))
        made = _write_exports(config, run_dir)
        for path in made:
            name, digest = str(path.relative_to(run_dir)), exports.file_sha256(path)
            database.write(
                lambda c, n=name, d=digest: snapshot.note_export(
                    c, number, n, d, actor=None, now=time.time()
                )
            )
    finally:
        database.close()
    console = Console(highlight=False, soft_wrap=True)
    for name, file in written.files.items():
        console.print(f"{file['rows']:>9,} rows  {run_dir / name}")
    for path, num_pairs in made.items():
        what = "" if num_pairs is None else f"{num_pairs:,} pairs"
        console.print(f"{what:>15} {path}")
    console.print(f"manifest sha256 {written.manifest_sha256}")


def _write_exports(config: SnapshotConfig, run_dir: Path) -> dict[Path, int | None]:
    """The files that were made out of the snapshot as asked for, with their number of pairs."""
    from heedful.store import exports

    made: dict[Path, int | None] = {}
    for is_wanted, name, write in (
        (config.pairs, PAIRS_FILE, exports.write_pairs),
        (config.consensus, CONSENSUS_FILE, exports.write_consensus),
    ):
        if is_wanted:
            target = run_dir / name
            target.parent.mkdir(exist_ok=True)
            made[target] = write(run_dir, target)
    if config.parquet:
        made |= dict.fromkeys(exports.write_parquet(run_dir, run_dir / PARQUET_DIRECTORY))
    return made
