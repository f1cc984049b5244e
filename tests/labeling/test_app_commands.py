"""heed label from the terminal: a first admin, an invitation, the service, its figures."""

from __future__ import annotations

import asyncio
import json
import time
from hashlib import sha256

import httpx
import pytest
import uvicorn

from heedful.cli import main
from heedful.commands.label import read_completions
from heedful.errors import DataError
from heedful.store import people, projects, sessions
from heedful.store.database import open_database


@pytest.fixture
def store(tmp_path):
    """A database made by heed label init, with the project "first"."""
    path, secret = tmp_path / "labels.db", tmp_path / "secret"
    secret.write_text("seven quiet herons\n", encoding="utf-8")
    words = ["--database", str(path), "--email", "Ada@example.org", "--password-file", str(secret)]
    assert main(["label", "init", *words]) == 0
    assert main(["label", "init", *words]) == 2  # there is one already
    database = open_database(path, now=1.0)
    database.write(lambda c: projects.create(c, "first", seed="s", actor=1, now=1.0))
    database.close()
    return path


def read(store, function, *given, **named):
    database = open_database(store, now=1.0)
    try:
        with database.read() as connection:
            return function(connection, *given, **named)
    finally:
        database.close()


def test_the_first_admin_is_made_once(store, capsys):
    admin = read(store, people.user_by_email, "ada@example.org")
    assert admin.role == "admin" and admin.password_hash.startswith(
        "$argon2id$v=19$m=19456,t=2,p=1$"
    )


@pytest.mark.parametrize("password", ["short", "aaaaaaaaaaaaaaaa", "x" * 300])
def test_a_weak_password_is_refused(tmp_path, capsys, password):
    secret = tmp_path / "secret"
    secret.write_text(password, encoding="utf-8")
    words = ["--database", str(tmp_path / "a.db"), "--email", "a@b", "--password-file", str(secret)]
    assert main(["label", "init", *words]) == 2
    assert "assword" in capsys.readouterr().err and not (tmp_path / "a.db").exists()


def test_an_invitation_is_printed_as_a_link(store, capsys):
    words = ["--database", str(store), "--email", "lea@example.org", "--url", "https://l.test/"]
    assert main(["label", "invite", *words]) == 2  # into which project?
    assert main(["label", "invite", *words, "--project", "first", "--cohort", "heldout"]) == 0
    link = capsys.readouterr().out.strip().splitlines()[-1]
    assert link.startswith("https://l.test/invitation/") and len(link) > 60
    (one,) = read(store, people.open_invitations, now=2.0)
    assert (one.email, one.role, one.cohort) == ("lea@example.org", "labeler", "heldout")


def test_an_admin_who_is_locked_out_gets_a_link_on_the_machine_itself(store, capsys):
    database = open_database(store, now=1.0)
    database.write(lambda c: people.change_user(c, 1, totp_secret="ABCD", actor=1, now=1.0))
    database.write(lambda c: sessions.set_recovery_codes(c, 1, ["x"], now=1.0))
    database.close()
    words = ["--database", str(store), "--url", "https://l.test/", "--email"]
    assert main(["label", "reset", *words, "no@example.org"]) == 2
    assert main(["label", "reset", *words, "ADA@example.org"]) == 0
    link = capsys.readouterr().out.strip()
    token = link.removeprefix("https://l.test/password/")
    assert len(token) == 43
    holder = {"purpose": "password", "now": time.time()}
    assert read(store, sessions.ticket_holder, sha256(token.encode()).hexdigest(), **holder) == 1
    assert read(store, people.user, 1).totp_secret == "ABCD"
    assert main(["label", "reset", *words, "ada@example.org", "--no-code"]) == 0
    assert read(store, people.user, 1).totp_secret is None
    assert read(store, sessions.num_recovery_codes, 1) == 0


def test_roles_that_need_a_code_are_checked(store, capsys):
    assert main(["label", "serve", "--database", str(store), "--second-factor", "king"]) == 2
    assert "none, or some of admin,researcher" in capsys.readouterr().err


def test_stats_and_export_of_a_project(store, tmp_path, capsys):
    assert main(["label", "stats", "--database", str(store), "--project", "first"]) == 0
    assert "no task has answers of two labelers yet" in capsys.readouterr().out
    out = tmp_path / "out"
    words = ["--database", str(store), "--project", "first", "--out", str(out)]
    assert main(["label", "export", *words, "--pairs", "--consensus", "--heldout"]) == 0
    assert (out / "pairs/comparisons.jsonl").is_file() and (out / "pairs/consensus.jsonl").is_file()
    assert json.loads((out / "manifest.json").read_text(encoding="utf-8"))["project"] == "first"
    assert main(["label", "stats", "--database", str(tmp_path / "no.db"), "--project", "x"]) == 2
    assert "heed label init" in capsys.readouterr().err


def test_serve_runs_the_application_behind_tls(store, tmp_path, monkeypatch):
    found = {}

    def run(app, **settings):
        async def ask():
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="https://l.test") as client:
                return await client.get("/login"), await client.get("/health")

        found.update(settings, pages=asyncio.run(ask()))

    monkeypatch.setattr(uvicorn, "run", run)
    words = ["--database", str(store), "--url", "https://l.test", "--port", "8111"]
    assert main(["label", "serve", *words, "--snapshots", str(tmp_path / "snapshots")]) == 0
    login, health = found["pages"]
    assert (login.status_code, health.text, found["port"]) == (200, "ok", 8111)
    assert "Secure" in login.headers["set-cookie"]
    assert login.headers["strict-transport-security"].startswith("max-age=31536000")
    assert main(["label", "serve", "--database", str(store), "--url", "l.test"]) == 2


def test_completions_of_heed_sample_are_read(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [
        {
            "prompt_id": "p",
            "prompt": "Hi",
            "split": "valid",
            "completions": [
                {"id": "c1", "text": "a", "model": "m", "finished": False},
                {"text": "b"},
            ],
        },
        {"prompt": "Ho", "responses": ["x", "y", "z"]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (prompt, completions), (_, three) = read_completions(path)
    assert (prompt.id, prompt.text, prompt.split) == ("p", "Hi", "valid")
    assert [(c.id, c.text, c.model, c.finished) for c in completions] == [
        ("c1", "a", "m", False),
        ("p/1", "b", None, True),
    ]
    assert [c.text for c in three] == ["x", "y", "z"]
    path.write_text('{"prompt": "Hi", "completions": ["a"]}\n', encoding="utf-8")
    with pytest.raises(DataError, match="line 1"):
        list(read_completions(path))
