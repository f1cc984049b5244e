"""Log-ins: sessions, failures, one-time codes."""

from __future__ import annotations

from heedful.store import sessions


def start(house, token, who=0, after=0.0):
    return house.write(
        sessions.start,
        house.labelers[who],
        token_sha256=token,
        csrf_token="c",
        expires_at=house.now + 1000,
        agent="x" * 300,
        now=house.now + after,
    )


def find(house, token, after):
    return house.read(sessions.find, token, idle_s=60, now=house.now + after)


def test_a_session_ends_when_it_is_idle_or_too_old(house):
    start(house, "a")
    assert find(house, "a", 59).user_id == house.labelers[0]
    assert find(house, "a", 60) is None
    house.write(sessions.touch, "a", now=house.now + 59)
    assert find(house, "a", 60).seen_at == house.now + 59
    house.write(sessions.touch, "a", now=house.now + 999)
    assert find(house, "a", 999) is not None
    assert find(house, "a", 1000) is None
    assert house.write(sessions.drop_expired, now=house.now + 1000) == 1


def test_sessions_can_be_ended_one_or_all(house):
    who = house.labelers[0]
    for number, token in enumerate("abc"):
        start(house, token, after=number)
    start(house, "other", who=1)
    found = house.read(sessions.of_user, who, now=house.now)
    assert [session.token_sha256 for session in found] == ["c", "b", "a"]
    house.write(sessions.end, "b", actor=who, now=house.now)
    assert find(house, "b", 1) is None
    assert house.write(sessions.end_all, who, but="c", actor=who, now=house.now) == 1
    assert find(house, "c", 3) and find(house, "other", 1)
    assert house.write(sessions.end_all, who, actor=who, now=house.now) == 1


def test_failures_are_counted_by_scope_and_forgotten_after_a_success(house):
    assert house.read(sessions.failures, "account", "a") == (0, 0.0)
    counts = [house.write(sessions.note_failure, "account", "a", now=float(n)) for n in (1, 2, 3)]
    assert counts == [1, 2, 3]
    assert house.read(sessions.failures, "account", "a") == (3, 3.0)
    assert house.read(sessions.failures, "address", "a") == (0, 0.0)
    house.write(sessions.clear_failures, "account", "a")
    assert house.read(sessions.failures, "account", "a") == (0, 0.0)


def test_one_time_codes_work_one_time(house):
    who = house.labelers[0]
    steps = [house.write(sessions.use_totp_step, who, step) for step in (10, 10, 9, 11)]
    assert steps == [True, False, False, True]
    house.write(sessions.set_recovery_codes, who, ["x", "y"], now=house.now)
    used = [
        house.write(sessions.use_recovery_code, who, code, now=house.now)
        for code in ("x", "x", "z")
    ]
    assert used == [True, False, False]
    house.write(sessions.set_recovery_codes, who, ["new"], now=house.now)
    assert not house.write(sessions.use_recovery_code, who, "y", now=house.now)


def issue(house, token, purpose="password", who=0, after=100.0):
    house.write(
        sessions.issue_ticket,
        house.labelers[who],
        purpose,
        token_sha256=token,
        expires_at=house.now + after,
        actor=house.admin,
        now=house.now,
    )


def holder(house, token, purpose="password", after=0.0):
    return house.read(sessions.ticket_holder, token, purpose, now=house.now + after)


def test_a_ticket_is_for_one_purpose_one_time_and_a_while(house):
    issue(house, "a")
    assert holder(house, "a", after=99.0) == house.labelers[0]
    assert holder(house, "a", after=100.0) is None and holder(house, "a", "code") is None
    assert house.write(sessions.use_ticket, "a") and not house.write(sessions.use_ticket, "a")
    assert holder(house, "a") is None


def test_a_new_ticket_ends_the_one_before_of_the_same_kind(house):
    for token, purpose, who in (("a", "password", 0), ("b", "code", 0), ("c", "password", 1)):
        issue(house, token, purpose, who)
    issue(house, "d")
    found = [holder(house, t) for t in "acd"]
    assert found == [None, house.labelers[1], house.labelers[0]]
    assert holder(house, "b", "code") == house.labelers[0]
    start(house, "session")
    assert house.write(sessions.drop_expired, now=house.now + 100.0) == 3


def test_recovery_codes_can_be_taken_away(house):
    who = house.labelers[0]
    house.write(sessions.set_recovery_codes, who, ["x", "y"], now=house.now)
    assert house.read(sessions.num_recovery_codes, who) == 2
    house.write(sessions.set_recovery_codes, who, [], now=house.now)
    assert house.read(sessions.num_recovery_codes, who) == 0
