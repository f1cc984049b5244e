"""SQLite: one process, one thread that writes, commits in groups; readers beside it.

Two processes that write to one SQLite file wait for each other for seconds, and a transaction that
begins by reading fails when it comes to write. So the file is locked for one process, all writes go
through one thread that begins with BEGIN IMMEDIATE, and whatever waits is committed together: one
disk flush for many writes, and nobody is told "saved" before it (WAL, synchronous=FULL).
"""

from __future__ import annotations

import fcntl
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO, TypeVar
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import QueuePool, StaticPool

from heedful.store.audit import forget, seal
from heedful.store.database import canonical_json
from heedful.store.migrations import migrate
from heedful.store.problems import StoreError

T = TypeVar("T")
MAX_GROUP = 256
NUM_READERS = 16
BUSY_TIMEOUT_MS = 10_000  # a backup tool may hold the file for a moment


@dataclass(slots=True)
class _Job:
    work: Callable[[Connection], Any]
    result: Future[Any] = field(default_factory=Future)


class SQLiteDatabase:
    """A store in one file. See ``heedful.store.database.Database``."""

    def __init__(self, path: Path, *, now: float):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock_file = _hold(path)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._gate = threading.Lock()  # no job is put behind the None that ends the thread
        self._closed = False
        try:
            self._writer = _engine(path, write=True)
            with self._writer.begin() as connection:
                migrate(connection, now=now)
        except BaseException:
            self._lock_file.close()
            raise
        self._readers = _engine(path, write=False)
        self._thread = threading.Thread(target=self._serve, name="store-writer", daemon=True)
        self._thread.start()

    def write(self, work: Callable[[Connection], T]) -> T:
        """What ``work`` returns, after its changes are on disk; all of them or none."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("write() inside a write(): pass the connection on instead")
        job = _Job(work)
        with self._gate:
            if self._closed:
                raise StoreError(f"{self.path} is closed: the service is stopping, try again later")
            self._jobs.put(job)
        return job.result.result()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees the store as it is at this moment, and cannot change it."""
        with self._readers.connect() as connection, connection.begin():
            yield connection

    def backup(self, target: Path) -> None:
        """Writes a whole copy of the store to a new file, while people go on working."""
        if target.exists():
            raise StoreError(f"{target} exists: give the backup another name")
        with _connect(self.path, write=False) as source:
            source.execute("VACUUM INTO ?", (str(target),))
        source.close()

    def close(self) -> None:
        """Ends what is under way and lets the file go."""
        with self._gate:
            if self._closed:
                return
            self._closed = True
            self._jobs.put(None)
        self._thread.join()
        self._readers.dispose()
        self._writer.dispose()
        self._lock_file.close()

    def _serve(self) -> None:
        with self._writer.connect() as connection:
            while (job := self._jobs.get()) is not None:
                if not self._commit_group(connection, job):
                    return

    def _commit_group(self, connection: Connection, job: _Job | None) -> bool:
        """Runs all jobs that wait and commits them together; False if the end was among them."""
        group: list[_Job] = []
        outcomes: list[tuple[Any, BaseException | None]] = []
        try:
            with connection.begin():
                while job is not None:
                    group.append(job)
                    outcomes.append(_attempt(connection, job))
                    if len(group) == MAX_GROUP:
                        break
                    try:
                        job = self._jobs.get_nowait()
                    except queue.Empty:
                        break
        except BaseException as error:  # a full disk, say: none of the group was saved
            outcomes = [(None, error)] * len(group)
        for done, (value, error) in zip(group, outcomes, strict=True):
            if error is None:
                done.result.set_result(value)
            else:
                done.result.set_exception(error)
        return job is not None


def _attempt(connection: Connection, job: _Job) -> tuple[Any, BaseException | None]:
    """(result, error) of one job within the group's transaction; a failure undoes it alone."""
    point = connection.begin_nested()
    try:
        value = job.work(connection)
        seal(connection)
    except BaseException as error:
        forget(connection)
        point.rollback()
        return None, error
    point.commit()
    return value, None


def _hold(path: Path) -> TextIO:
    """The open lock file beside the database, held by this process until it is closed."""
    lock = path.with_name(path.name + ".lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read().strip() or "unknown"
        lock.close()
        raise StoreError(
            f"{path} is in use by process {holder}: a SQLite store belongs to one process at a "
            "time. Use that one (its pages have exports and snapshots), stop it first, or keep the "
            "store in PostgreSQL, which several processes can share"
        ) from None
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def _connect(path: Path, *, write: bool) -> sqlite3.Connection:
    mode = "rwc" if write else "ro"
    connection = sqlite3.connect(
        f"file:{quote(str(path.resolve()))}?mode={mode}",
        uri=True,
        check_same_thread=False,
        isolation_level=None,  # sqlite3 would else begin transactions where it likes
    )
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    if write:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _engine(path: Path, *, write: bool) -> Engine:
    pool: dict[str, Any] = (
        {"poolclass": StaticPool}
        if write
        else {"poolclass": QueuePool, "pool_size": NUM_READERS, "max_overflow": 4 * NUM_READERS}
    )
    engine = create_engine(
        "sqlite+pysqlite://",
        creator=lambda: _connect(path, write=write),
        json_serializer=canonical_json,
        **pool,
    )
    begin = "BEGIN IMMEDIATE" if write else "BEGIN"
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine
