"""heed label init, serve, invite, export, stats: the service where people label. Needs no torch."""

from __future__ import annotations

import argparse
import getpass
import importlib.util
import secrets
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from heedful.config import SnapshotConfig
from heedful.data.formats import read_completions, read_prompts
from heedful.data.rows import ROW_SUFFIXES
from heedful.errors import ConfigError, MissingExtraError

ROLES = ("admin", "researcher", "reviewer", "labeler")
# What heed label export can write beyond the rule.
EXPORTS = {
    "heldout": "answers of held-out labelers too",
    "shared": "answers to gold and drift tasks too",
    "pairs": "also pairs/comparisons.jsonl: prompt, chosen, rejected",
    "consensus": "also pairs/consensus.jsonl: the pairs that most of their labelers order alike",
    "parquet": "also parquet/: the files as Parquet",
}
LIBRARIES = ("argon2", "fastapi", "multipart", "sqlalchemy", "uvicorn")


def run_label(arguments: Sequence[str]) -> int:
    """Runs one action of ``heed label``; returns its exit code."""
    options = label_parser().parse_args(arguments)
    require_service()
    return options.run(options)


def require_service(*more: str) -> None:
    """Raises MissingExtraError where a library of the service is not installed, or one of these."""
    for name in (*LIBRARIES, *more):
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(f"{name} is not installed: pip install 'heedful[labeling]'")


def label_parser() -> argparse.ArgumentParser:
    """The arguments of the actions."""
    parser = argparse.ArgumentParser(
        prog="heed label", description="The service where people write, rate and rank."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def add(name: str, run: Any, help: str) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=help, description=help)
        action.add_argument(
            "--database",
            default="heedful.db",
            help="a SQLite file, or postgresql+psycopg://user@host/name (default: %(default)s)",
        )
        action.set_defaults(run=run)
        return action

    init = add("init", _init, "make the database and its first admin")
    init.add_argument("--email", required=True, help="the admin's address")
    init.add_argument("--name", default="Admin", help="default: %(default)s")
    init.add_argument("--password-file", type=Path, help="file of the password (default: asked)")
    serve = add("serve", _serve, "run the service")
    serve.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    serve.add_argument("--port", type=int, default=8100, help="default: %(default)s")
    serve.add_argument(
        "--url", help="where people reach it, such as https://label.example.org (default: the port)"
    )
    serve.add_argument(
        "--proxies", default="127.0.0.1", help="trusted proxies (default: %(default)s)"
    )
    serve.add_argument(
        "--snapshots", type=Path, default=Path("snapshots"), help="default: %(default)s"
    )
    serve.add_argument(
        "--runs",
        type=Path,
        default=Path("runs"),
        help="where an erasure looks for models made of a snapshot (default: %(default)s)",
    )
    serve.add_argument(
        "--second-factor",
        default="admin,researcher",
        metavar="ROLES",
        help="roles that need a code besides the password, or none (default: %(default)s)",
    )
    invite = add("invite", _invite, "make an invitation and print its link")
    invite.add_argument("--email", required=True)
    invite.add_argument("--role", default="labeler", choices=("labeler", "reviewer", "researcher"))
    invite.add_argument("--project", help="name of the project; labelers need one")
    invite.add_argument("--cohort", default="train", choices=("train", "heldout"))
    invite.add_argument("--url", default="http://127.0.0.1:8100", help="default: %(default)s")
    reset = add("reset", _reset, "print a link for a new password, for who cannot log in any more")
    reset.add_argument("--email", required=True, help="the address of the account")
    reset.add_argument("--url", default="http://127.0.0.1:8100", help="default: %(default)s")
    reset.add_argument(
        "--no-code", action="store_true", help="take the second factor away too: the phone is lost"
    )
    export = add("export", _export, "write a snapshot, as heed snapshot does")
    export.add_argument("--project", required=True, help="name of the project")
    export.add_argument("--out", required=True, help="directory to write")
    for name, what in EXPORTS.items():
        export.add_argument(f"--{name}", action="store_true", help=what)
    stats = add("stats", _stats, "how far a project is, and how well its labelers agree")
    stats.add_argument("--project", required=True, help="name of the project")
    return parser


def _init_command(address: str) -> str:
    return shlex.join(["heed", "label", "init", f"--database={address}", "--email=ADDRESS"])


def _open(address: str, *, make: bool = False) -> Any:
    from heedful.store.database import open_database

    if not make and "://" not in address and not Path(address).is_file():
        raise ConfigError(f"{address} does not exist: make it with {_init_command(address)}")
    return open_database(address, now=time.time())


def _init(options: argparse.Namespace) -> int:
    from heedful.labeling.auth import hash_password
    from heedful.store import people

    password = _password(options.password_file)
    try:
        hashed = hash_password(password)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    database = _open(options.database, make=True)

    def add(connection: Any) -> None:
        if people.all_users(connection, role="admin"):
            raise ConfigError(
                f"{options.database} has an admin already, who can invite others: log in there"
            )
        people.add_user(
            connection,
            options.email,
            options.name,
            "admin",
            hashed,
            actor=None,
            now=time.time(),
        )

    try:
        database.write(add)
    finally:
        database.close()
    serve = shlex.join(["heed", "label", "serve", f"--database={options.database}"])
    print(f"{options.email} is the admin of {options.database}. Go on with: {serve}")
    return 0


def _password(file: Path | None) -> str:
    """The password out of a file (one line), or asked for twice."""
    if file is not None:
        if not file.is_file():
            raise ConfigError(f"--password-file: {file} does not exist")
        return file.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
    if not sys.stdin.isatty():
        raise ConfigError("there is no terminal to ask for a password: give --password-file")
    password = getpass.getpass("Password of the admin (12 characters or more): ")
    if password != getpass.getpass("Again: "):
        raise ConfigError("the two passwords differ")
    return password


def _serve(options: argparse.Namespace) -> int:
    import uvicorn

    from heedful.labeling.app import create_app
    from heedful.labeling.service import Readers, Service

    url = (options.url or f"http://{options.host}:{options.port}").rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"--url {url}: begin it with https:// (or http://)")
    readers = Readers(
        prompts=lambda path: read_prompts(str(path)),
        completions=read_completions,
        suffixes=ROW_SUFFIXES,
    )
    second_factor = _roles(options.second_factor)
    database = _open(options.database)
    try:
        service = Service(
            database,
            url,
            readers,
            options.snapshots,
            time.time,
            second_factor=second_factor,
            runs=options.runs,
        )
        print(f"heedful is at {url} (Ctrl+C ends it)", flush=True)
        uvicorn.run(
            create_app(service),
            host=options.host,
            port=options.port,
            log_level="warning",
            proxy_headers=True,
            forwarded_allow_ips=options.proxies,
            server_header=False,
        )
    finally:
        database.close()
    return 0


def _roles(text: str) -> frozenset[str]:
    """The roles of a list with commas; "none" is the empty one."""
    given = frozenset() if text == "none" else frozenset(text.split(","))
    if given - set(ROLES):
        raise ConfigError(f"--second-factor {text}: give none, or some of {','.join(ROLES)}")
    return given


def _invite(options: argparse.Namespace) -> int:
    from heedful.labeling.access import token_hash
    from heedful.labeling.admin import INVITATION_S
    from heedful.store import people, projects

    if (options.role == "labeler") != (options.project is not None):
        raise ConfigError("a labeler is invited into a --project, the others into none")
    token, now = secrets.token_urlsafe(32), time.time()

    def add(connection: Any) -> None:
        admins = people.all_users(connection, role="admin")
        if not admins:
            raise ConfigError(f"there is no admin yet: {_init_command(options.database)}")
        if people.user_by_email(connection, options.email) is not None:
            raise ConfigError(f"{options.email} has an account already")
        project = projects.by_name(connection, options.project) if options.project else None
        people.invite(
            connection,
            options.email,
            options.role,
            token_sha256=token_hash(token),
            project_id=project.id if project else None,
            cohort=options.cohort,
            expires_at=now + INVITATION_S,
            actor=admins[0].id,
            now=now,
        )

    database = _open(options.database)
    try:
        database.write(add)
    finally:
        database.close()
    print(f"{options.url.rstrip('/')}/invitation/{token}")
    return 0


def _reset(options: argparse.Namespace) -> int:
    from heedful.labeling.access import token_hash
    from heedful.labeling.accounts import PASSWORD_LINK_S
    from heedful.labeling.second_factor import drop
    from heedful.store import people, sessions

    token, now = secrets.token_urlsafe(32), time.time()

    def issue(connection: Any) -> None:
        account = people.user_by_email(connection, options.email)
        if account is None or account.state != "active":
            raise ConfigError(f"{options.email} has no open account here")
        link = {"token_sha256": token_hash(token), "expires_at": now + PASSWORD_LINK_S}
        sessions.issue_ticket(connection, account.id, "password", **link, actor=None, now=now)
        if options.no_code:
            drop(connection, account.id, actor=None, now=now)

    database = _open(options.database)
    try:
        database.write(issue)
    finally:
        database.close()
    print(f"{options.url.rstrip('/')}/password/{token}")
    return 0


def _export(options: argparse.Namespace) -> int:
    from heedful.commands.snapshot import run_snapshot

    run_snapshot(
        SnapshotConfig(
            run_dir=options.out,
            database=options.database,
            project=options.project,
            **{name: getattr(options, name) for name in EXPORTS},
        )
    )
    return 0


def _stats(options: argparse.Namespace) -> int:
    from heedful.labeling.figures import figures
    from heedful.store import pools, projects

    database = _open(options.database)
    try:
        with database.read() as connection:
            project = projects.by_name(connection, options.project)
            progress = pools.progress(connection, project.id)
            found = figures(connection, project.id)
    finally:
        database.close()
    console = Console()
    table = Table("kind", "tasks", "answers", "wanted", "at work", "skipped", title=project.name)
    for one in progress:
        numbers = (one.num_tasks, one.num_answers, one.num_open_slots, one.num_leased)
        table.add_row(one.kind, *(f"{number:,}" for number in (*numbers, one.num_skipped)))
    console.print(table)
    if found.agreement is None:
        console.print("agreement: no task has answers of two labelers yet")
        return 0
    for rate in found.agreement.rates.values():
        low, high = rate.by_labeler.low, rate.by_labeler.high
        bounds = "" if low != low else f" ({low:.3f} to {high:.3f} for other labelers)"
        console.print(f"{rate.name}: {rate.value:.3f}{bounds}: {rate.definition}", highlight=False)
    for why in found.agreement.suppressed:
        console.print(f"no interval: {why}", highlight=False)
    return 0
