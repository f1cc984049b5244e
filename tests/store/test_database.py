"""Opening a store, writing and reading, on both databases."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading

import pytest
from sqlalchemy import create_engine, insert, inspect, make_url, select
from sqlalchemy.exc import DBAPIError

from heedful.errors import ConfigError
from heedful.store.database import canonical_json, insert_new, open_database, storable
from heedful.store.problems import StoreError
from heedful.store.tables import attempts

ROW = {"scope": "login", "subject": "a", "failures": 1, "last_at": 5.0}


def subjects(connection):
    return sorted(connection.execute(select(attempts.c.subject)).scalars())


def test_a_write_is_whole_or_nothing(database):
    database.write(lambda c: c.execute(insert(attempts).values(ROW)))

    def half(connection):
        connection.execute(insert(attempts).values({**ROW, "subject": "b"}))
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        database.write(half)
    with database.read() as connection:
        assert subjects(connection) == ["a"]


def test_a_reader_cannot_write_and_sees_one_moment(database):
    with database.read() as before:
        assert subjects(before) == []
        database.write(lambda c: c.execute(insert(attempts).values(ROW)))
        assert subjects(before) == []
    with database.read() as after:
        assert subjects(after) == ["a"]
        with pytest.raises(DBAPIError):
            after.execute(insert(attempts).values({**ROW, "subject": "b"}))


def test_a_row_that_is_there_stays_and_spoils_nothing(database):
    def work(connection):
        first = insert_new(connection, attempts, ROW)
        again = insert_new(connection, attempts, {**ROW, "failures": 9})
        return first, again, connection.execute(select(attempts.c.failures)).scalar_one()

    assert database.write(work) == (True, False, 1)


def test_writes_of_many_threads_all_arrive_and_a_failure_is_its_own(database):
    failed = []

    def work(number):
        def add(connection):
            connection.execute(insert(attempts).values({**ROW, "subject": f"{number:02}"}))
            if number % 5 == 0:
                raise ValueError(number)

        try:
            database.write(add)
        except ValueError as error:
            failed.append(error.args[0])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(failed) == [0, 5, 10, 15]
    with database.read() as connection:
        assert subjects(connection) == [f"{n:02}" for n in range(20) if n % 5]


def test_what_was_written_is_there_after_closing(address):
    first = open_database(address, now=1.0)
    first.write(lambda c: c.execute(insert(attempts).values(ROW)))
    first.close()
    second = open_database(address, now=2.0)
    with second.read() as connection:
        assert subjects(connection) == ["a"]
    second.close()


def test_a_sqlite_file_belongs_to_one_process_and_a_closed_store_says_so(tmp_path):
    path = tmp_path / "labels.db"
    store = open_database(path, now=1.0)
    code = (
        "import sys; from heedful.store.database import open_database\n"
        "try: open_database(sys.argv[1], now=1.0)\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert "StoreError" in done.stdout and "one process at a time" in done.stdout
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.write(subjects)
    open_database(path, now=2.0).close()


def test_sqlite_waits_for_the_disk_and_refuses_a_write_within_a_write(tmp_path):
    store = open_database(tmp_path / "labels.db", now=1.0)
    pragmas = ("journal_mode", "synchronous", "foreign_keys")
    found = store.write(
        lambda c: [c.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas]
    )
    assert found == ["wal", 2, 1]  # 2 is FULL
    with pytest.raises(RuntimeError, match="inside a write"):
        store.write(lambda c: store.write(subjects))
    store.close()


def test_a_backup_is_a_whole_store(tmp_path):
    store = open_database(tmp_path / "labels.db", now=1.0)
    store.write(lambda c: c.execute(insert(attempts).values(ROW)))
    store.backup(tmp_path / "copy.db")
    with pytest.raises(StoreError, match="exists"):
        store.backup(tmp_path / "copy.db")
    store.close()
    copy = sqlite3.connect(tmp_path / "copy.db")
    assert copy.execute("SELECT subject FROM attempts").fetchall() == [("a",)]
    assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    copy.close()


def test_an_address_that_is_no_database_is_refused_with_the_mend():
    with pytest.raises(ConfigError, match="SQLite or PostgreSQL, not in mysql"):
        open_database("mysql://localhost/x", now=1.0)
    with pytest.raises(ConfigError, match="path or a URL"):
        open_database("://", now=1.0)
    with pytest.raises(StoreError, match="does not answer"):
        open_database("postgresql://nobody@/x?host=/nowhere", now=1.0)


SETTINGS = ("jit", "max_parallel_workers_per_gather", "search_path")


def test_the_options_of_an_address_and_of_the_environment_stay(new_postgresql, monkeypatch):
    plain = new_postgresql()
    engine = create_engine(plain)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA heed")
    own = f"{plain}&options=-csearch_path%3Dheed"

    def opened(address):
        store = open_database(address, now=1.0)
        with store.read() as connection:
            found = [connection.exec_driver_sql(f"SHOW {name}").scalar() for name in SETTINGS]
        store.close()
        return found

    assert opened(own) == ["off", "0", "heed"]
    assert inspect(engine).get_table_names(schema="public") == []
    assert "prompts" in inspect(engine).get_table_names(schema="heed")
    assert opened(f"{own}%20-cjit%3Don") == ["on", "0", "heed"]  # who asks for it has it
    monkeypatch.setenv("PGOPTIONS", "-c search_path=heed")
    assert opened(plain) == ["off", "0", "heed"]
    engine.dispose()


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_that_cannot_hold_every_text_is_refused_with_the_mend(new_postgresql, encoding):
    address = new_postgresql()
    server = create_engine(address, isolation_level="AUTOCOMMIT")
    other = f"other_{encoding.lower()}"
    with server.connect() as connection:
        connection.exec_driver_sql(
            f"CREATE DATABASE {other} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
            " TEMPLATE template0"
        )
    server.dispose()
    mend = f"in {encoding} .* createdb --encoding=UTF8 --template=template0 {other}"
    with pytest.raises(StoreError, match=mend):
        open_database(make_url(address).set(database=other).render_as_string(), now=1.0)


def test_one_value_has_one_text():
    assert canonical_json({"b": 1.5, "a": ["ü", None, True]}) == '{"a":["ü",null,true],"b":1.5}'
    assert canonical_json(["ü", "\ud83d"]) == '["\\u00fc","\\ud83d"]'
    with pytest.raises(ValueError):
        canonical_json([float("nan")])
    assert storable("a\x00b\ud83dü") == "ab?ü"
