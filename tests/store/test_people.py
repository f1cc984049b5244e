"""Accounts, invitations and places in projects."""

from __future__ import annotations

import threading

import pytest

from heedful.store import people, projects, screening, sessions
from heedful.store.problems import Conflict, NotFound

DAY = 24 * 3600.0


def invite(house, email="New@Example.org ", **more):
    return house.write(
        people.invite,
        email,
        "labeler",
        token_sha256="f" * 64,
        project_id=house.project.id,
        expires_at=house.now + 3 * DAY,
        actor=house.admin,
        now=house.now,
        **more,
    )


def accept(house, after=0.0, token="f" * 64):
    return house.write(
        people.accept_invitation, token, name="New", password_hash="h", now=house.now + after
    )


def test_an_address_has_one_account_however_it_is_written(house):
    found = house.read(people.user_by_email, " ADMIN@example.org")
    assert (found.id, found.name, found.role) == (house.admin, "Ada", "admin")
    with pytest.raises(Conflict, match=r"admin@example\.org has an account"):
        house.write(
            people.add_user, "Admin@Example.org", "B", "admin", None, actor=None, now=house.now
        )
    with pytest.raises(NotFound):
        house.read(people.user, 999)


def test_an_invitation_makes_an_account_in_its_project_once(house):
    invite(house, cohort="heldout")
    account = accept(house)
    assert (account.email, account.role, account.password_hash) == (
        "new@example.org",
        "labeler",
        "h",
    )
    place = house.read(people.membership, house.project.id, account.id)
    assert (place.cohort, place.state) == ("heldout", "active")
    with pytest.raises(NotFound, match="ask for a new one"):
        accept(house)


def test_an_invitation_ends_and_can_be_taken_back(house):
    made = invite(house)
    assert [i.id for i in house.read(people.open_invitations, now=house.now)] == [made.id]
    with pytest.raises(NotFound):
        accept(house, after=3 * DAY)
    house.write(people.revoke_invitation, made.id, actor=house.admin, now=house.now)
    with pytest.raises(NotFound):
        accept(house)
    assert house.read(people.open_invitations, now=house.now) == []


def test_an_invitation_to_somebody_with_an_account_gives_a_second_project(house):
    other = house.write(projects.create, "second", seed="s", actor=house.admin, now=house.now)
    house.write(
        people.invite,
        "labeler0@example.org",
        "labeler",
        token_sha256="e" * 64,
        project_id=other.id,
        expires_at=house.now + DAY,
        actor=house.admin,
        now=house.now,
    )
    account = accept(house, token="e" * 64)
    assert (account.id, account.name) == (house.labelers[0], "L0")
    places = house.read(people.memberships_of, account.id)
    assert [place.project_id for place in places] == [house.project.id, other.id]


def test_whoever_joins_a_project_with_a_screening_begins_with_it(house):
    house.write(
        screening.add_item,
        house.project.id,
        "topics",
        {"question": "Which?"},
        actor=house.admin,
        now=house.now,
    )
    states = {}
    for cohort in ("train", "heldout"):
        name = f"{cohort}@example.org"
        account = house.write(
            people.add_user, name, "N", "labeler", None, actor=None, now=house.now
        )
        made = house.write(
            people.join, house.project.id, account.id, cohort, actor=None, now=house.now
        )
        states[cohort] = made.state
    assert states == {"train": "screening", "heldout": "active"}
    with pytest.raises(Conflict, match="already"):
        house.write(people.join, house.project.id, house.labelers[0], actor=None, now=house.now)


def test_an_account_is_changed_by_field(house):
    who = house.labelers[0]
    house.write(people.change_user, who, state="disabled", actor=house.admin, now=house.now)
    assert house.read(people.user, who).state == "disabled"
    with pytest.raises(ValueError, match="email"):
        house.write(people.change_user, who, email="x", actor=house.admin, now=house.now)
    with pytest.raises(NotFound):
        house.write(people.change_user, 999, name="x", actor=house.admin, now=house.now)


def test_guidelines_are_unread_until_read(house):
    who, project = house.labelers[0], house.project.id
    first = house.read(projects.guideline, project)
    assert [g.number for g in house.read(projects.unread_guidelines, project, who)] == [1]
    for _ in range(2):
        house.write(people.read_guidelines, who, first.id, now=house.now)
    assert house.read(projects.unread_guidelines, project, who) == []
    house.write(
        projects.publish_guideline, project, "Be kind.", "tone", actor=house.admin, now=house.now
    )
    unread = house.read(projects.unread_guidelines, project, who)
    assert [(g.number, g.changes) for g in unread] == [(2, "tone")]


def test_a_survey_can_be_answered_again(house):
    for clear in (2, 5):
        house.write(
            people.save_survey,
            house.project.id,
            house.labelers[0],
            {"clear": clear},
            now=house.now + clear,
        )
    assert house.read(people.survey_answers, house.project.id) == [{"clear": 5}]


def stand(house, user_id, role, state="active"):
    standing = {"role": role, "state": state}
    house.write(people.set_standing, user_id, **standing, actor=house.admin, now=house.now)


def test_a_new_standing_ends_sessions_and_tickets(house):
    who = house.labelers[0]
    token = {"token_sha256": "t", "expires_at": house.now + 9, "now": house.now}
    house.write(sessions.start, who, csrf_token="c", **token)
    house.write(sessions.issue_ticket, who, "password", actor=house.admin, **token)
    stand(house, who, "reviewer", "disabled")
    found = house.read(people.user, who)
    assert (found.role, found.state) == ("reviewer", "disabled")
    assert house.read(sessions.of_user, who, now=house.now) == []
    assert house.read(sessions.ticket_holder, "t", "password", now=house.now) is None


def test_the_last_admin_stays(house):
    for role, state in (("labeler", "active"), ("admin", "disabled")):
        with pytest.raises(Conflict, match="only admin"):
            stand(house, house.admin, role, state)
    stand(house, house.labelers[0], "admin")
    stand(house, house.admin, "researcher")
    with pytest.raises(Conflict, match="only admin"):
        stand(house, house.labelers[0], "labeler")
    with pytest.raises(NotFound):
        stand(house, 999, "labeler")


def test_two_admins_cannot_demote_each_other_at_once(house):
    stand(house, house.labelers[0], "admin")
    pair, start, outcomes = (house.admin, house.labelers[0]), threading.Barrier(2), []

    def demote(user_id):
        start.wait(60)
        try:
            stand(house, user_id, "labeler")
            outcomes.append("done")
        except Conflict:
            outcomes.append("refused")

    threads = [threading.Thread(target=demote, args=(user_id,)) for user_id in pair]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(outcomes) == ["done", "refused"]
    assert len(house.read(people.all_users, role="admin")) == 1
