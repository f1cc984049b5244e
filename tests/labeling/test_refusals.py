"""Refused log-ins in the record: who, why, from where, and never so many that they bury it."""

from __future__ import annotations

from heedful.store import audit, sessions

CODE = "123456"


def refused(house):
    with house.database.read() as connection:
        found = audit.entries(connection, limit=10_000)
        assert audit.verify(connection) is None
    return [one for one in found if one.action == "refuse_log_in"]


def test_what_was_wrong_is_recorded_and_not_what_was_typed(house):
    user_id = house.person("lea")
    house.stranger("10.9.8.7").log_in("lea@example.org", "CANARY-password")
    house.stranger().log_in("CANARY-nobody@example.org", "CANARY-password")
    lea = house.browser("lea")
    lea.submit(
        lea.get("/account"),
        "/account/password",
        old="CANARY-old",
        password="eight quiet herons",
        again="eight quiet herons",
    )
    third, second, first = refused(house)
    assert (first.object, first.actor_id) == (f"user/{user_id}", None)
    assert first.detail == {"why": "password", "network": "10.9.8.0/24", "in_this_hour": 1}
    assert (second.object, second.detail["in_this_hour"]) == ("log-in", 1)
    assert (third.object, third.detail["why"]) == (f"user/{user_id}", "password, logged in")
    page = house.browser("ada").get("/admin/audit")
    assert "refuse log in" in page.text and "10.9.8.0/24" in page.text
    assert "CANARY" not in page.text


def test_a_second_factor_that_is_refused_is_recorded(house):
    from heedful.labeling.second_factor import check_code
    from heedful.store import people

    user_id, now = house.person("rea", role="researcher"), house.clock.now

    def attempt(c):
        people.change_user(c, user_id, totp_secret="GEZDGNBVGY3TQOJQ", actor=None, now=now)
        return check_code(c, people.user(c, user_id), "10.0.0.0/24", "no such code", now=now)

    assert house.database.write(attempt) == -1.0
    (one,) = refused(house)
    assert (one.object, one.detail["why"]) == (f"user/{user_id}", "second factor")


def test_a_flood_leaves_few_entries_and_the_count(house):
    now = house.clock.now // 3600 * 3600.0

    def flood(c):
        for _ in range(1000):
            sessions.note_refusal(c, None, "password", "10.0.0.0/24", now=now + 5.0)

    house.database.write(flood)
    numbers = [one.detail["in_this_hour"] for one in reversed(refused(house))]
    assert numbers == [*range(1, 101), 200, 400, 800]
    house.database.write(
        lambda c: sessions.note_refusal(c, None, "password", "10.0.0.0/24", now=now + 3600.0)
    )
    assert refused(house)[0].detail["in_this_hour"] == 1


def test_strangers_cannot_blind_the_record_for_accounts(house):
    lea, leo, now = house.person("lea"), house.person("leo"), house.clock.now // 3600 * 3600.0

    def flood(user_id, number):
        house.database.write(
            lambda c: [
                sessions.note_refusal(c, user_id, "password", "10.0.0.0/24", now=now + 5.0)
                for _ in range(number)
            ]
        )

    flood(None, 120)
    flood(lea, 45)
    flood(leo, 1)
    entered = {}
    for one in reversed(refused(house)):
        entered.setdefault(one.object, []).append(one.detail["in_this_hour"])
    assert entered == {
        "log-in": list(range(1, 101)),
        f"user/{lea}": [*range(1, 11), 20, 40],
        f"user/{leo}": [1],
    }
