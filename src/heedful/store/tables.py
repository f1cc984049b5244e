"""The tables. SQLAlchemy Core rather than its ORM: rows are plain values, every statement stands in
the function that runs it, and no object loads itself or writes when it likes.

Times are seconds since 1970 (UTC). JSON columns hold objects and lists. Ids of what labelers see
(assignments) are opaque text; all others are numbers that are never used again.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    Text,
    UniqueConstraint,
    text,
)

from heedful.store.columns import Id
from heedful.store.columns import at as _at
from heedful.store.columns import flag as _flag
from heedful.store.columns import json as _json
from heedful.store.columns import metadata as metadata
from heedful.store.columns import number as _number
from heedful.store.columns import numbered as _numbered
from heedful.store.columns import one_of as _one_of
from heedful.store.columns import table as _table
from heedful.store.columns import text as _text
from heedful.store.columns import to as _to

schema_version = _table("schema_version", _number("number", primary_key=True), _at("at"))

# People

users = _numbered(
    "users",
    _text("email", unique=True),
    _text("name"),
    _text("password_hash", optional=True),
    _text("role"),
    _text("state"),
    _json("settings"),
    _text("totp_secret", optional=True),
    Column("totp_last_step", BigInteger),
    _at("created_at"),
    _one_of("role", "admin", "researcher", "reviewer", "labeler"),
    _one_of("state", "active", "disabled", "deleted"),
)
recovery_codes = _table(
    "recovery_codes", _to("users", key=True), _text("code_sha256", primary_key=True)
)
sessions = _table(
    "sessions",
    _text("token_sha256", primary_key=True),
    _to("users", index=True),
    _text("csrf_token"),
    _at("created_at"),
    _at("seen_at"),
    _at("expires_at"),
    _text("agent"),
)
tickets = _table(
    "tickets",
    _text("token_sha256", primary_key=True),
    _to("users", index=True),
    _text("purpose"),
    _at("expires_at"),
    _one_of("purpose", "code", "password"),
)
attempts = _table(
    "attempts",
    _text("scope", primary_key=True),
    _text("subject", primary_key=True),
    _number("failures"),
    _at("last_at"),
)
invitations = _numbered(
    "invitations",
    _text("token_sha256", unique=True),
    _text("email"),
    _text("role"),
    Column("project_id", Id, ForeignKey("projects.id")),
    _text("cohort"),
    Column("created_by", Id, ForeignKey("users.id"), nullable=False),
    _at("created_at"),
    _at("expires_at"),
    _at("accepted_at", optional=True),
    Column("accepted_by", Id, ForeignKey("users.id")),
    _at("revoked_at", optional=True),
    _one_of("cohort", "train", "heldout"),
)
memberships = _table(
    "memberships",
    _to("projects", key=True),
    _to("users", key=True, index=True),
    _text("cohort"),
    _text("state"),
    _text("note"),
    _at("since"),
    _one_of("cohort", "train", "heldout"),
    _one_of("state", "screening", "screened", "active", "paused", "rejected"),
)
surveys = _table(
    "surveys",
    _to("projects", key=True),
    _to("users", key=True),
    _json("answers"),
    _at("at"),
)

# Projects and what is labeled in them

projects = _numbered(
    "projects",
    _text("name", unique=True),
    _text("seed"),
    _json("settings"),
    _at("created_at"),
    _at("closed_at", optional=True),
)
guidelines = _numbered(
    "guidelines",
    _to("projects"),
    _number("number"),
    _text("text"),
    _text("changes"),
    _at("created_at"),
    UniqueConstraint("project_id", "number"),
)
guideline_reads = _table(
    "guideline_reads", _to("guidelines", key=True), _to("users", key=True), _at("at")
)
label_schemas = _numbered(
    "label_schemas",
    _to("projects"),
    _number("number"),
    _json("fields"),
    _at("created_at"),
    UniqueConstraint("project_id", "number"),
)
prompts = _numbered(
    "prompts",
    _to("projects"),
    _text("name"),
    _text("text"),
    _text("source"),
    _text("kind", optional=True),
    _text("source_user", optional=True),
    _text("use_case", optional=True),
    _text("split"),
    _text("language", optional=True),
    Column("author_id", Id, ForeignKey("users.id"), index=True),
    Column("submission_id", Id, index=True),
    _text("state"),
    _text("reason"),
    UniqueConstraint("project_id", "name"),
    Index(None, "project_id", "source_user"),
    Index(None, "project_id", "state"),
    _one_of("state", "active", "quarantined", "removed"),
    _one_of("split", "train", "valid", "test"),
)
completions = _numbered(
    "completions",
    _to("prompts"),
    _text("name"),
    _text("text"),
    _text("model", optional=True),
    _flag("finished"),
    UniqueConstraint("prompt_id", "name"),
)

# Tasks: open_slots + live and counted training answers = target_n, or open_slots = 0 beyond it;
# the same holds for heldout_open, held-out answers and heldout_n.

tasks = _numbered(
    "tasks",
    _to("projects"),
    _text("kind"),
    _to("prompts", optional=True, index=True),
    Column("author_id", Id),
    _text("brief"),
    _text("prompt_kind", optional=True),
    _text("pool"),
    _text("state"),
    _number("priority"),
    Column("lot", Double, nullable=False),
    Column("turn", Double, nullable=False),
    _number("target_n"),
    _number("open_slots"),
    _number("heldout_n"),
    _number("heldout_open"),
    CheckConstraint("open_slots >= 0", "open_slots"),
    CheckConstraint("heldout_open >= 0", "heldout_open"),
    _one_of("kind", "demonstration", "ranking", "prompt"),
    _one_of("pool", "work", "gold", "drift"),
    _one_of("state", "open", "held", "closed"),
)
_counted = (tasks.c[name] for name in ["project_id", "pool", "kind", "state", "open_slots"])
Index("ix_tasks_progress", *_counted)
# Lists of ranking tasks, a page at a time.
Index("ix_tasks_in_order", *(tasks.c[name] for name in ["project_id", "kind", "id"]))
for _slots in ("open_slots", "heldout_open"):
    _waiting = text(f"state = 'open' AND {_slots} > 0")
    Index(
        f"ix_tasks_next_{_slots}",
        tasks.c.project_id,
        tasks.c.kind,
        tasks.c.pool,
        tasks.c.priority.desc(),
        tasks.c.turn,
        sqlite_where=_waiting,
        postgresql_where=_waiting,
    )
task_completions = _table(
    "task_completions",
    _to("tasks", key=True),
    _number("position", primary_key=True),
    _to("completions", index=True),
)
gold = _table(
    "gold",
    _to("tasks", key=True),
    _json("answer"),
    Column("set_by", Id, ForeignKey("users.id"), nullable=False),
    _at("at"),
)
adjudications = _table(
    "adjudications",
    _to("tasks", key=True),
    _json("answer"),
    _text("note"),
    Column("set_by", Id, ForeignKey("users.id"), nullable=False),
    _at("at"),
)
assignments = _table(
    "assignments",
    _text("id", primary_key=True),
    _to("tasks"),
    _to("projects"),
    Column("labeler_id", Id, ForeignKey("users.id"), nullable=False),
    _text("kind"),
    _text("cohort"),
    _text("state"),
    _flag("is_extra"),
    _at("claimed_at"),
    _at("lease_until"),
    _at("ended_at", optional=True),
    Column("active_s", Double),
    _text("skip_reason"),
    _to("guidelines"),
    _to("label_schemas"),
    UniqueConstraint("task_id", "labeler_id"),
    Index(None, "labeler_id", "project_id", "claimed_at"),
    Index(None, "project_id", "kind", "state", "ended_at"),
    # What the page of all labelers adds up, so that it need not read the rows.
    Index(
        "ix_assignments_totals",
        *["project_id", "labeler_id", "cohort", "state", "is_extra", "active_s", "ended_at"],
    ),
    _one_of("state", "leased", "submitted", "skipped", "expired"),
    _one_of("cohort", "train", "heldout"),
)
_leased = text("state = 'leased'")
Index(
    "uq_assignments_one_lease",
    assignments.c.labeler_id,
    assignments.c.project_id,
    assignments.c.kind,
    unique=True,
    sqlite_where=_leased,
    postgresql_where=_leased,
)
Index(
    "ix_assignments_due",
    assignments.c.lease_until,
    sqlite_where=_leased,
    postgresql_where=_leased,
)
drafts = _table(
    "drafts",
    Column("assignment_id", Text, ForeignKey("assignments.id"), primary_key=True),
    _json("payload", optional=True),
    _number("revision"),
    _at("saved_at", optional=True),
    Column("active_s", Double),
)
submissions = _numbered(
    "submissions",
    Column("assignment_id", Text, ForeignKey("assignments.id"), nullable=False),
    _text("key", unique=True),
    _json("payload"),
    _text("payload_sha256"),
    _flag("is_late"),
    _at("created_at"),
    _at("withdrawn_at", optional=True),
)
_standing = text("withdrawn_at IS NULL")
Index(
    "uq_submissions_one_standing",
    submissions.c.assignment_id,
    unique=True,
    sqlite_where=_standing,
    postgresql_where=_standing,
)

# Answers, one row per submission (ratings: per completion); a withdrawn submission has none.

demonstrations = _table(
    "demonstrations",
    _to("submissions", key=True),
    _to("prompts", key=True, index=True),
    Column("labeler_id", Id, ForeignKey("users.id"), nullable=False, index=True),
    _text("response"),
)
rankings = _table(
    "rankings",
    _to("submissions", key=True),
    _to("tasks", index=True),
    Column("labeler_id", Id, ForeignKey("users.id"), nullable=False, index=True),
    _json("ranks"),
    _json("display_order"),
    _json("checks"),
    _text("notes"),
)
ratings = _table(
    "ratings",
    _to("submissions", key=True),
    _to("completions", key=True, index=True),
    Column("overall", Integer),
    _json("flags"),
    _text("notes"),
    CheckConstraint("overall BETWEEN 1 AND 7", "overall"),
)
prompt_labels = _table(
    "prompt_labels",
    _to("submissions", key=True),
    _to("prompts", index=True),
    _text("use_case", optional=True),
    _json("flags"),
)

# What a labeler asks about a task, and what researchers answer: one thread for each assignment.
# ``seen_at`` is when the other side has opened it.

messages = _numbered(
    "messages",
    Column("assignment_id", Text, ForeignKey("assignments.id"), nullable=False, index=True),
    Column("author_id", Id, ForeignKey("users.id"), nullable=False),
    _flag("is_answer"),
    _text("text"),
    _at("at"),
    _at("seen_at", optional=True),
)

# Screening

screening_items = _numbered(
    "screening_items",
    _to("projects", index=True),
    _number("position"),
    _text("kind"),
    _json("content"),
    _json("truth", optional=True),
    _one_of("kind", "flags", "ranking", "demonstration", "topics"),
)
screening_answers = _numbered(
    "screening_answers",
    _to("screening_items"),
    _to("users", index=True),
    _json("answer"),
    _at("at"),
    UniqueConstraint("screening_item_id", "user_id"),
)
screening_grades = _table(
    "screening_grades",
    _to("screening_answers", key=True),
    Column("reviewer_id", Id, ForeignKey("users.id"), primary_key=True),
    _number("score"),
    _at("at"),
    CheckConstraint("score BETWEEN 1 AND 7", "score"),
)

# The record of what happened, and what has left the house

audit = _table(
    "audit",
    Column("seq", Id, primary_key=True, autoincrement=False),
    _at("at"),
    Column("actor_id", Id),
    _text("action"),
    _text("object"),
    _json("detail"),
    _text("previous_sha256"),
    _text("sha256"),
    Index(None, "object", "seq"),
)
audit_head = _table(
    "audit_head",
    Column("id", Id, primary_key=True, autoincrement=False),
    Column("seq", Id, nullable=False),
    _text("sha256"),
)
snapshots = _numbered(
    "snapshots",
    _to("projects"),
    _text("manifest_sha256"),
    _json("files"),
    _json("query"),
    Column("created_by", Id, ForeignKey("users.id")),
    _at("created_at"),
    UniqueConstraint("project_id", "manifest_sha256"),
)
# Files made out of a snapshot, by the hash that a model trained on one has in its lineage.
snapshot_exports = _table(
    "snapshot_exports",
    _to("snapshots", key=True),
    _text("sha256", primary_key=True),
    _text("name"),
    _at("made_at"),
)
snapshot_people = _table(
    "snapshot_people",
    _to("snapshots", key=True),
    _text("person", primary_key=True),
)
