"""Tiny models and a tiny tokenizer, made in process; databases; and no test skips itself unseen.

A test that skips itself fails the run, unless it is listed here with the reason.

PostgreSQL is started once per test process, in a folder of its own, on a socket alone; every test
gets a database of its own in it. It does not run as root: root starts it as the user ``postgres``.
"""

from __future__ import annotations

import importlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Runs are compared to the bit, which is promised of a processor; the device of tests is pretended.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

# Seconds are no property of what is tested: a machine that halts for a moment would fail a test.
# And the same examples every time: whoever changes something learns what that has broken.
settings.register_profile(
    "any_machine",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("any_machine")

# In the background of a shell SIGINT is ignored, and children inherit that; tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Node id (or its beginning) -> what the test needs that a machine may lack.
ALLOWED_SKIPS: dict[str, str] = {}

_skipped: list[str] = []


@pytest.fixture
def serve() -> Iterator[Callable[[type[BaseHTTPRequestHandler]], str]]:
    """Runs a server of a handler until the test is over; gives its address, without a last /."""
    running: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(handler: type[BaseHTTPRequestHandler]) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        settings = {"poll_interval": 0.01}
        thread = threading.Thread(target=server.serve_forever, kwargs=settings)
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note(report.nodeid, report.skipped and not hasattr(report, "wasxfail"))


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _note(report.nodeid, report.skipped)


def _note(nodeid: str, skipped: bool) -> None:
    if skipped and not nodeid.startswith(tuple(ALLOWED_SKIPS)):
        _skipped.append(nodeid)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if _skipped and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for nodeid in _skipped:
        terminalreporter.line(f"not allowed to skip: {nodeid} (see tests/conftest.py)", red=True)


VOCABULARY, EOS, PAD = 100, 0, 1
# What every tiny model has: weights large enough that attention is far from uniform.
SIZES = {"vocab_size": VOCABULARY, "initializer_range": 0.2}
SPECIAL = {"bos_token_id": EOS, "eos_token_id": EOS, "pad_token_id": PAD}
LLAMA_LIKE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., Any]:
    """Makes the configuration of a 2-layer model: llama, gpt2, qwen3, gemma2 or gemma3."""
    import transformers

    window = {"sliding_window": 4, "query_pre_attn_scalar": 8}
    layers = {"layer_types": ["sliding_attention", "full_attention"]}
    classes = {
        "llama": (transformers.LlamaConfig, LLAMA_LIKE),
        "qwen3": (transformers.Qwen3Config, LLAMA_LIKE),
        "gemma2": (
            transformers.Gemma2Config,
            LLAMA_LIKE
            | window
            | layers
            | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
        ),
        "gemma3": (transformers.Gemma3TextConfig, LLAMA_LIKE | window | layers),
        "gpt2": (
            transformers.GPT2Config,
            {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
        ),
    }

    def make(architecture: str = "llama", **changes: Any) -> Any:
        config_class, values = classes[architecture]
        return config_class(**{**SIZES, **SPECIAL, **values, **changes})

    return make


@pytest.fixture(scope="session")
def tiny_model(tiny_config: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a random causal LM on our attention; ``attention="eager"`` gives the library's own.

    Biases and norms are random too, so that none is tested at 0 or 1 alone.
    """
    import torch

    from heedful.models.language_model import new_language_model

    def make(
        architecture: str = "llama", seed: int = 0, attention: str = "", **changes: Any
    ) -> Any:
        model = new_language_model(tiny_config(architecture, **changes), seed)
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.data.add_(0.1 * noise)
        if attention:
            model.set_attn_implementation(attention)
        return model

    return make


@pytest.fixture
def cuda() -> Iterator[Any]:
    """A CUDA device that is pretended, until the test is over; it counts who waits for it."""
    from .pretend_cuda import pretend_cuda

    with pretend_cuda() as device:
        yield device


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A word-level tokenizer of the tiny models: EOS 0, pad 1, then w2 to w99."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<eos>", "<pad>", *(f"w{i}" for i in range(2, VOCABULARY))]
    vocabulary = {word: i for i, word in enumerate(words)}
    words_of = Tokenizer(models.WordLevel(vocabulary, unk_token="w2"))
    words_of.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words_of.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=words_of, eos_token="<eos>", bos_token="<eos>", pad_token="<pad>"
    )


@pytest.fixture(scope="session")
def results_of() -> Callable[..., list[dict[str, Any]]]:
    """Reads the metrics of a run directory without times and speeds, which no two runs share."""
    from heedful.metrics import read_metrics

    def read(run_dir: Any) -> list[dict[str, Any]]:
        return [
            {
                key: value
                for key, value in row.items()
                if not key.startswith(("time/", "speed/", "memory/"))
            }
            for row in read_metrics(run_dir)
        ]

    return read


@pytest.fixture(scope="session")
def interrupt_at() -> Callable[[int], Callable[[int, int], None]]:
    """Makes a progress callback that ends the run after so many updates, as Ctrl-C does."""

    def make(last: int) -> Callable[[int, int], None]:
        def progress(done: int, total: int) -> None:
            if done == last:
                raise KeyboardInterrupt

        return progress

    return make


BENCHMARKS = str(Path(__file__).parents[1] / "benchmarks")


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Finds a port that nobody listens on, and that no connection gets while a service starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        return importlib.import_module("label_service").free_port


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A benchmark's module by its name; they import each other as scripts do."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


POSTGRESQL = Path("/usr/lib/postgresql/15/bin")
# Nothing in a test outlives it, so it does not wait for the disk.
FAST = "-c fsync=off -c synchronous_commit=off -c full_page_writes=off"


def _as_postgres(command: list[str]) -> None:
    """Runs a program of PostgreSQL, as a user that it accepts."""
    if os.geteuid() == 0:
        command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]
    environment = os.environ | {"LC_ALL": "C"}
    done = subprocess.run(
        command, cwd="/", env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The folder with the socket of a PostgreSQL server of this test process."""
    if not (POSTGRESQL / "initdb").exists():
        pytest.fail(f"{POSTGRESQL} has no PostgreSQL: apt-get install postgresql-15")
    # Short and outside pytest's folders: a socket's path has 107 characters at most, and the user
    # postgres has to be able to walk to it.
    home = Path(tempfile.mkdtemp(prefix="heedful-pg-"))
    data = home / "data"
    if os.geteuid() == 0:
        os.chown(home, pwd.getpwnam("postgres").pw_uid, -1)
    initdb = [str(POSTGRESQL / "initdb"), "-D", str(data), "-U", "heedful", "--auth=trust"]
    control = [str(POSTGRESQL / "pg_ctl"), "-D", str(data), "-w"]
    try:
        _as_postgres([*initdb, "--encoding=UTF8", "--locale=C", "--no-sync"])
        options = f"-k {home} -c listen_addresses= -c max_connections=80 {FAST}"
        _as_postgres([*control, "-l", str(home / "log"), "-o", options, "start"])
        try:
            yield str(home)
        finally:
            _as_postgres([*control, "-m", "immediate", "stop"])
    finally:
        shutil.rmtree(home)


@pytest.fixture(scope="session")
def new_postgresql(postgresql_server: str) -> Iterator[Callable[[], str]]:
    """Makes an empty database and returns its URL."""
    import sqlalchemy

    server = sqlalchemy.create_engine(
        _url(postgresql_server, "postgres"), isolation_level="AUTOCOMMIT"
    )

    def make() -> str:
        name = f"t{uuid.uuid4().hex}"
        with server.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE template0")
        return _url(postgresql_server, name)

    yield make
    server.dispose()


def _url(server: str, name: str) -> str:
    return f"postgresql+psycopg://heedful@/{name}?host={server}"


# A new database for each test would be thousands of files: the rows go, and the numbers begin anew.
RESET = """
DO $$ DECLARE name text; BEGIN
    SET LOCAL session_replication_role = replica;  -- keys are not checked in between
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public'
        AND tablename NOT IN ('schema_version', 'audit_head')
    LOOP EXECUTE 'DELETE FROM ' || name; END LOOP;
    FOR name IN SELECT sequencename FROM pg_sequences WHERE schemaname = 'public'
    LOOP PERFORM setval(name::regclass, 1, false); END LOOP;
    UPDATE audit_head SET seq = 0, sha256 = repeat('0', 64);
END $$
"""


@pytest.fixture(scope="session")
def _postgresql_store(new_postgresql: Callable[[], str]) -> str:
    from heedful.store.database import open_database

    url = new_postgresql()
    open_database(url, now=0.0).close()
    return url


@pytest.fixture
def postgresql_store(_postgresql_store: str) -> str:
    """The URL of a store on PostgreSQL with nothing in it."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(_postgresql_store)
    with engine.begin() as connection:
        connection.exec_driver_sql(RESET)
    engine.dispose()
    return _postgresql_store


@pytest.fixture(scope="session")
def sqlite_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the tables of a store, to be copied."""
    from heedful.store.database import open_database

    path = tmp_path_factory.mktemp("store") / "labels.db"
    open_database(path, now=0.0).close()
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store is that has its tables and nothing in them."""
    if request.param == "sqlite":
        made = request.getfixturevalue("sqlite_store")
        return str(shutil.copy(made, tmp_path / "labels.db"))
    return request.getfixturevalue("postgresql_store")


@pytest.fixture
def heed(capsys) -> Callable[..., tuple[int, str]]:
    """Runs a command; gives its exit code and what it said on stderr, where no traceback may be."""

    from heedful.cli import main

    def run(*words: str | Path) -> tuple[int, str]:
        capsys.readouterr()  # what was said while the test made a model is not the command's
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return code, said

    return run
