CREATE TABLE attempts (
    scope TEXT NOT NULL,
    subject TEXT NOT NULL,
    failures INTEGER NOT NULL,
    last_at DOUBLE NOT NULL,
    CONSTRAINT pk_attempts PRIMARY KEY (scope, subject)
);

CREATE TABLE audit (
    seq INTEGER NOT NULL,
    at DOUBLE NOT NULL,
    actor_id INTEGER,
    action TEXT NOT NULL,
    object TEXT NOT NULL,
    detail JSON NOT NULL,
    previous_sha256 TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    CONSTRAINT pk_audit PRIMARY KEY (seq)
);

CREATE TABLE audit_head (
    id INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    CONSTRAINT pk_audit_head PRIMARY KEY (id)
);

CREATE TABLE projects (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    seed TEXT NOT NULL,
    settings JSON NOT NULL,
    created_at DOUBLE NOT NULL,
    closed_at DOUBLE,
    CONSTRAINT uq_projects_name UNIQUE (name)
);

CREATE TABLE schema_version (
    number INTEGER NOT NULL,
    at DOUBLE NOT NULL,
    CONSTRAINT pk_schema_version PRIMARY KEY (number)
);

CREATE TABLE users (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    email TEXT NOT NULL,
    name TEXT NOT NULL,
    password_hash TEXT,
    role TEXT NOT NULL,
    state TEXT NOT NULL,
    settings JSON NOT NULL,
    totp_secret TEXT,
    totp_last_step BIGINT,
    created_at DOUBLE NOT NULL,
    CONSTRAINT ck_users_role CHECK (role IN ('admin', 'researcher', 'reviewer', 'labeler')),
    CONSTRAINT ck_users_state CHECK (state IN ('active', 'disabled', 'deleted')),
    CONSTRAINT uq_users_email UNIQUE (email)
);

CREATE TABLE guidelines (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    project_id INTEGER NOT NULL,
    number INTEGER NOT NULL,
    text TEXT NOT NULL,
    changes TEXT NOT NULL,
    created_at DOUBLE NOT NULL,
    CONSTRAINT uq_guidelines_project_id_number UNIQUE (project_id, number),
    CONSTRAINT fk_guidelines_project_id FOREIGN KEY(project_id) REFERENCES projects (id)
);

CREATE TABLE invitations (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    token_sha256 TEXT NOT NULL,
    email TEXT NOT NULL,
    role TEXT NOT NULL,
    project_id INTEGER,
    cohort TEXT NOT NULL,
    created_by INTEGER NOT NULL,
    created_at DOUBLE NOT NULL,
    expires_at DOUBLE NOT NULL,
    accepted_at DOUBLE,
    accepted_by INTEGER,
    revoked_at DOUBLE,
    CONSTRAINT ck_invitations_cohort CHECK (cohort IN ('train', 'heldout')),
    CONSTRAINT uq_invitations_token_sha256 UNIQUE (token_sha256),
    CONSTRAINT fk_invitations_project_id FOREIGN KEY(project_id) REFERENCES projects (id),
    CONSTRAINT fk_invitations_created_by FOREIGN KEY(created_by) REFERENCES users (id),
    CONSTRAINT fk_invitations_accepted_by FOREIGN KEY(accepted_by) REFERENCES users (id)
);

CREATE TABLE label_schemas (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    project_id INTEGER NOT NULL,
    number INTEGER NOT NULL,
    fields JSON NOT NULL,
    created_at DOUBLE NOT NULL,
    CONSTRAINT uq_label_schemas_project_id_number UNIQUE (project_id, number),
    CONSTRAINT fk_label_schemas_project_id FOREIGN KEY(project_id) REFERENCES projects (id)
);

CREATE TABLE memberships (
    project_id INTEGER NOT NULL,
    user_id INTEGER NOT NULL,
    cohort TEXT NOT NULL,
    state TEXT NOT NULL,
    note TEXT NOT NULL,
    since DOUBLE NOT NULL,
    CONSTRAINT pk_memberships PRIMARY KEY (project_id, user_id),
    CONSTRAINT ck_memberships_cohort CHECK (cohort IN ('train', 'heldout')),
    CONSTRAINT ck_memberships_state CHECK (state IN ('screening', 'screened', 'active', 'paused', 'rejected')),
    CONSTRAINT fk_memberships_project_id FOREIGN KEY(project_id) REFERENCES projects (id),
    CONSTRAINT fk_memberships_user_id FOREIGN KEY(user_id) REFERENCES users (id)
);

CREATE INDEX ix_memberships_user_id ON memberships (user_id);

CREATE TABLE prompts (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    project_id INTEGER NOT NULL,
    name TEXT NOT NULL,
    text TEXT NOT NULL,
    source TEXT NOT NULL,
    kind TEXT,
    source_user TEXT,
    use_case TEXT,
    split TEXT NOT NULL,
    language TEXT,
    author_id INTEGER,
    submission_id INTEGER,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    CONSTRAINT uq_prompts_project_id_name UNIQUE (project_id, name),
    CONSTRAINT ck_prompts_state CHECK (state IN ('active', 'quarantined', 'removed')),
    CONSTRAINT ck_prompts_split CHECK (split IN ('train', 'valid', 'test')),
    CONSTRAINT fk_prompts_project_id FOREIGN KEY(project_id) REFERENCES projects (id),
    CONSTRAINT fk_prompts_author_id FOREIGN KEY(author_id) REFERENCES users (id)
);

CREATE INDEX ix_prompts_author_id ON prompts (author_id);

CREATE INDEX ix_prompts_project_id_source_user ON prompts (project_id, source_user);

CREATE INDEX ix_prompts_project_id_state ON prompts (project_id, state);

CREATE INDEX ix_prompts_submission_id ON prompts (submission_id);

CREATE TABLE recovery_codes (
    user_id INTEGER NOT NULL,
    code_sha256 TEXT NOT NULL,
    CONSTRAINT pk_recovery_codes PRIMARY KEY (user_id, code_sha256),
    CONSTRAINT fk_recovery_codes_user_id FOREIGN KEY(user_id) REFERENCES users (id)
);

CREATE TABLE screening_items (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    project_id INTEGER NOT NULL,
    position INTEGER NOT NULL,
    kind TEXT NOT NULL,
    content JSON NOT NULL,
    truth JSON,
    CONSTRAINT ck_screening_items_kind CHECK (kind IN ('flags', 'ranking', 'demonstration', 'topics')),
    CONSTRAINT fk_screening_items_project_id FOREIGN KEY(project_id) REFERENCES projects (id)
);

CREATE INDEX ix_screening_items_project_id ON screening_items (project_id);

CREATE TABLE sessions (
    token_sha256 TEXT NOT NULL,
    user_id INTEGER NOT NULL,
    csrf_token TEXT NOT NULL,
    created_at DOUBLE NOT NULL,
    seen_at DOUBLE NOT NULL,
    expires_at DOUBLE NOT NULL,
    agent TEXT NOT NULL,
    CONSTRAINT pk_sessions PRIMARY KEY (token_sha256),
    CONSTRAINT fk_sessions_user_id FOREIGN KEY(user_id) REFERENCES users (id)
);

CREATE INDEX ix_sessions_user_id ON sessions (user_id);

CREATE TABLE snapshots (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    project_id INTEGER NOT NULL,
    manifest_sha256 TEXT NOT NULL,
    files JSON NOT NULL,
    "query" JSON NOT NULL,
    created_by INTEGER,
    created_at DOUBLE NOT NULL,
    CONSTRAINT uq_snapshots_project_id_manifest_sha256 UNIQUE (project_id, manifest_sha256),
    CONSTRAINT fk_snapshots_project_id FOREIGN KEY(project_id) REFERENCES projects (id),
    CONSTRAINT fk_snapshots_created_by FOREIGN KEY(created_by) REFERENCES users (id)
);

CREATE TABLE surveys (
    project_id INTEGER NOT NULL,
    user_id INTEGER NOT NULL,
    answers JSON NOT NULL,
    at DOUBLE NOT NULL,
    CONSTRAINT pk_surveys PRIMARY KEY (project_id, user_id),
    CONSTRAINT fk_surveys_project_id FOREIGN KEY(project_id) REFERENCES projects (id),
    CONSTRAINT fk_surveys_user_id FOREIGN KEY(user_id) REFERENCES users (id)
);

CREATE TABLE completions (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    prompt_id INTEGER NOT NULL,
    name TEXT NOT NULL,
    text TEXT NOT NULL,
    model TEXT,
    finished BOOLEAN NOT NULL,
    CONSTRAINT uq_completions_prompt_id_name UNIQUE (prompt_id, name),
    CONSTRAINT fk_completions_prompt_id FOREIGN KEY(prompt_id) REFERENCES prompts (id)
);

CREATE TABLE guideline_reads (
    guideline_id INTEGER NOT NULL,
    user_id INTEGER NOT NULL,
    at DOUBLE NOT NULL,
    CONSTRAINT pk_guideline_reads PRIMARY KEY (guideline_id, user_id),
    CONSTRAINT fk_guideline_reads_guideline_id FOREIGN KEY(guideline_id) REFERENCES guidelines (id),
    CONSTRAINT fk_guideline_reads_user_id FOREIGN KEY(user_id) REFERENCES users (id)
);

CREATE TABLE screening_answers (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    screening_item_id INTEGER NOT NULL,
    user_id INTEGER NOT NULL,
    answer JSON NOT NULL,
    at DOUBLE NOT NULL,
    CONSTRAINT uq_screening_answers_screening_item_id_user_id UNIQUE (screening_item_id, user_id),
    CONSTRAINT fk_screening_answers_screening_item_id FOREIGN KEY(screening_item_id) REFERENCES screening_items (id),
    CONSTRAINT fk_screening_answers_user_id FOREIGN KEY(user_id) REFERENCES users (id)
);

CREATE INDEX ix_screening_answers_user_id ON screening_answers (user_id);

CREATE TABLE snapshot_people (
    snapshot_id INTEGER NOT NULL,
    person TEXT NOT NULL,
    CONSTRAINT pk_snapshot_people PRIMARY KEY (snapshot_id, person),
    CONSTRAINT fk_snapshot_people_snapshot_id FOREIGN KEY(snapshot_id) REFERENCES snapshots (id)
);

CREATE TABLE tasks (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    project_id INTEGER NOT NULL,
    kind TEXT NOT NULL,
    prompt_id INTEGER,
    author_id INTEGER,
    brief TEXT NOT NULL,
    prompt_kind TEXT,
    pool TEXT NOT NULL,
    state TEXT NOT NULL,
    priority INTEGER NOT NULL,
    lot DOUBLE NOT NULL,
    turn DOUBLE NOT NULL,
    target_n INTEGER NOT NULL,
    open_slots INTEGER NOT NULL,
    heldout_n INTEGER NOT NULL,
    heldout_open INTEGER NOT NULL,
    CONSTRAINT ck_tasks_open_slots CHECK (open_slots >= 0),
    CONSTRAINT ck_tasks_heldout_open CHECK (heldout_open >= 0),
    CONSTRAINT ck_tasks_kind CHECK (kind IN ('demonstration', 'ranking', 'prompt')),
    CONSTRAINT ck_tasks_pool CHECK (pool IN ('work', 'gold', 'drift')),
    CONSTRAINT ck_tasks_state CHECK (state IN ('open', 'held', 'closed')),
    CONSTRAINT fk_tasks_project_id FOREIGN KEY(project_id) REFERENCES projects (id),
    CONSTRAINT fk_tasks_prompt_id FOREIGN KEY(prompt_id) REFERENCES prompts (id)
);

CREATE INDEX ix_tasks_next_heldout_open ON tasks (project_id, kind, pool, priority DESC, turn) WHERE state = 'open' AND heldout_open > 0;

CREATE INDEX ix_tasks_next_open_slots ON tasks (project_id, kind, pool, priority DESC, turn) WHERE state = 'open' AND open_slots > 0;

CREATE INDEX ix_tasks_progress ON tasks (project_id, pool, kind, state, open_slots);

CREATE INDEX ix_tasks_prompt_id ON tasks (prompt_id);

CREATE TABLE adjudications (
    task_id INTEGER NOT NULL,
    answer JSON NOT NULL,
    note TEXT NOT NULL,
    set_by INTEGER NOT NULL,
    at DOUBLE NOT NULL,
    CONSTRAINT pk_adjudications PRIMARY KEY (task_id),
    CONSTRAINT fk_adjudications_task_id FOREIGN KEY(task_id) REFERENCES tasks (id),
    CONSTRAINT fk_adjudications_set_by FOREIGN KEY(set_by) REFERENCES users (id)
);

CREATE TABLE assignments (
    id TEXT NOT NULL,
    task_id INTEGER NOT NULL,
    project_id INTEGER NOT NULL,
    labeler_id INTEGER NOT NULL,
    kind TEXT NOT NULL,
    cohort TEXT NOT NULL,
    state TEXT NOT NULL,
    is_extra BOOLEAN NOT NULL,
    claimed_at DOUBLE NOT NULL,
    lease_until DOUBLE NOT NULL,
    ended_at DOUBLE,
    active_s DOUBLE,
    skip_reason TEXT NOT NULL,
    guideline_id INTEGER NOT NULL,
    label_schema_id INTEGER NOT NULL,
    CONSTRAINT pk_assignments PRIMARY KEY (id),
    CONSTRAINT uq_assignments_task_id_labeler_id UNIQUE (task_id, labeler_id),
    CONSTRAINT ck_assignments_state CHECK (state IN ('leased', 'submitted', 'skipped', 'expired')),
    CONSTRAINT ck_assignments_cohort CHECK (cohort IN ('train', 'heldout')),
    CONSTRAINT fk_assignments_task_id FOREIGN KEY(task_id) REFERENCES tasks (id),
    CONSTRAINT fk_assignments_project_id FOREIGN KEY(project_id) REFERENCES projects (id),
    CONSTRAINT fk_assignments_labeler_id FOREIGN KEY(labeler_id) REFERENCES users (id),
    CONSTRAINT fk_assignments_guideline_id FOREIGN KEY(guideline_id) REFERENCES guidelines (id),
    CONSTRAINT fk_assignments_label_schema_id FOREIGN KEY(label_schema_id) REFERENCES label_schemas (id)
);

CREATE INDEX ix_assignments_due ON assignments (lease_until) WHERE state = 'leased';

CREATE INDEX ix_assignments_labeler_id_project_id_claimed_at ON assignments (labeler_id, project_id, claimed_at);

CREATE INDEX ix_assignments_project_id_kind_state_ended_at ON assignments (project_id, kind, state, ended_at);

CREATE INDEX ix_assignments_totals ON assignments (project_id, labeler_id, cohort, state, is_extra, active_s, ended_at);

CREATE UNIQUE INDEX uq_assignments_one_lease ON assignments (labeler_id, project_id, kind) WHERE state = 'leased';

CREATE TABLE gold (
    task_id INTEGER NOT NULL,
    answer JSON NOT NULL,
    set_by INTEGER NOT NULL,
    at DOUBLE NOT NULL,
    CONSTRAINT pk_gold PRIMARY KEY (task_id),
    CONSTRAINT fk_gold_task_id FOREIGN KEY(task_id) REFERENCES tasks (id),
    CONSTRAINT fk_gold_set_by FOREIGN KEY(set_by) REFERENCES users (id)
);

CREATE TABLE screening_grades (
    screening_answer_id INTEGER NOT NULL,
    reviewer_id INTEGER NOT NULL,
    score INTEGER NOT NULL,
    at DOUBLE NOT NULL,
    CONSTRAINT pk_screening_grades PRIMARY KEY (screening_answer_id, reviewer_id),
    CONSTRAINT ck_screening_grades_score CHECK (score BETWEEN 1 AND 7),
    CONSTRAINT fk_screening_grades_screening_answer_id FOREIGN KEY(screening_answer_id) REFERENCES screening_answers (id),
    CONSTRAINT fk_screening_grades_reviewer_id FOREIGN KEY(reviewer_id) REFERENCES users (id)
);

CREATE TABLE task_completions (
    task_id INTEGER NOT NULL,
    position INTEGER NOT NULL,
    completion_id INTEGER NOT NULL,
    CONSTRAINT pk_task_completions PRIMARY KEY (task_id, position),
    CONSTRAINT fk_task_completions_task_id FOREIGN KEY(task_id) REFERENCES tasks (id),
    CONSTRAINT fk_task_completions_completion_id FOREIGN KEY(completion_id) REFERENCES completions (id)
);

CREATE INDEX ix_task_completions_completion_id ON task_completions (completion_id);

CREATE TABLE drafts (
    assignment_id TEXT NOT NULL,
    payload JSON,
    revision INTEGER NOT NULL,
    saved_at DOUBLE,
    CONSTRAINT pk_drafts PRIMARY KEY (assignment_id),
    CONSTRAINT fk_drafts_assignment_id FOREIGN KEY(assignment_id) REFERENCES assignments (id)
);

CREATE TABLE submissions (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    assignment_id TEXT NOT NULL,
    "key" TEXT NOT NULL,
    payload JSON NOT NULL,
    payload_sha256 TEXT NOT NULL,
    is_late BOOLEAN NOT NULL,
    created_at DOUBLE NOT NULL,
    withdrawn_at DOUBLE,
    CONSTRAINT fk_submissions_assignment_id FOREIGN KEY(assignment_id) REFERENCES assignments (id),
    CONSTRAINT uq_submissions_key UNIQUE ("key")
);

CREATE UNIQUE INDEX uq_submissions_one_standing ON submissions (assignment_id) WHERE withdrawn_at IS NULL;

CREATE TABLE demonstrations (
    submission_id INTEGER NOT NULL,
    prompt_id INTEGER NOT NULL,
    labeler_id INTEGER NOT NULL,
    response TEXT NOT NULL,
    CONSTRAINT pk_demonstrations PRIMARY KEY (submission_id, prompt_id),
    CONSTRAINT fk_demonstrations_submission_id FOREIGN KEY(submission_id) REFERENCES submissions (id),
    CONSTRAINT fk_demonstrations_prompt_id FOREIGN KEY(prompt_id) REFERENCES prompts (id),
    CONSTRAINT fk_demonstrations_labeler_id FOREIGN KEY(labeler_id) REFERENCES users (id)
);

CREATE INDEX ix_demonstrations_labeler_id ON demonstrations (labeler_id);

CREATE INDEX ix_demonstrations_prompt_id ON demonstrations (prompt_id);

CREATE TABLE prompt_labels (
    submission_id INTEGER NOT NULL,
    prompt_id INTEGER NOT NULL,
    use_case TEXT,
    flags JSON NOT NULL,
    CONSTRAINT pk_prompt_labels PRIMARY KEY (submission_id),
    CONSTRAINT fk_prompt_labels_submission_id FOREIGN KEY(submission_id) REFERENCES submissions (id),
    CONSTRAINT fk_prompt_labels_prompt_id FOREIGN KEY(prompt_id) REFERENCES prompts (id)
);

CREATE INDEX ix_prompt_labels_prompt_id ON prompt_labels (prompt_id);

CREATE TABLE rankings (
    submission_id INTEGER NOT NULL,
    task_id INTEGER NOT NULL,
    labeler_id INTEGER NOT NULL,
    ranks JSON NOT NULL,
    display_order JSON NOT NULL,
    checks JSON NOT NULL,
    notes TEXT NOT NULL,
    CONSTRAINT pk_rankings PRIMARY KEY (submission_id),
    CONSTRAINT fk_rankings_submission_id FOREIGN KEY(submission_id) REFERENCES submissions (id),
    CONSTRAINT fk_rankings_task_id FOREIGN KEY(task_id) REFERENCES tasks (id),
    CONSTRAINT fk_rankings_labeler_id FOREIGN KEY(labeler_id) REFERENCES users (id)
);

CREATE INDEX ix_rankings_labeler_id ON rankings (labeler_id);

CREATE INDEX ix_rankings_task_id ON rankings (task_id);

CREATE TABLE ratings (
    submission_id INTEGER NOT NULL,
    completion_id INTEGER NOT NULL,
    overall INTEGER,
    flags JSON NOT NULL,
    notes TEXT NOT NULL,
    CONSTRAINT pk_ratings PRIMARY KEY (submission_id, completion_id),
    CONSTRAINT ck_ratings_overall CHECK (overall BETWEEN 1 AND 7),
    CONSTRAINT fk_ratings_submission_id FOREIGN KEY(submission_id) REFERENCES submissions (id),
    CONSTRAINT fk_ratings_completion_id FOREIGN KEY(completion_id) REFERENCES completions (id)
);

CREATE INDEX ix_ratings_completion_id ON ratings (completion_id);
