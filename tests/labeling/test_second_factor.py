"""The second factor: set up, asked for, never twice the same code, never guessed fast."""

from __future__ import annotations

import hmac
import re
import struct
import sys
from base64 import b32decode
from dataclasses import replace
from hashlib import sha1

import pytest

from heedful.labeling.second_factor import step_of
from heedful.store import audit, people

OWN = "/account/second-factor"


def code_at(secret, now):
    """The six digits of RFC 6238, written out: HMAC-SHA-1 of the count of half minutes."""
    digest = hmac.new(b32decode(secret), struct.pack(">Q", int(now // 30)), sha1).digest()
    start = digest[-1] & 15
    number = struct.unpack(">I", digest[start : start + 4])[0] & 0x7FFFFFFF
    return f"{number % 1_000_000:06}"


def turn_on(house, browser):
    """(secret, recovery codes) after setting it up on its page."""
    page = browser.submit(browser.get(OWN), f"{OWN}/begin")
    secret = re.search(r"type the secret:\s*([A-Z2-7 ]+)", page.text).group(1).replace(" ", "")
    assert "<svg" in page.html and "style=" not in page.html
    page = browser.submit(page, OWN, code=code_at(secret, house.clock.now))
    assert "The second factor is on" in page.text
    codes = re.findall(r"<code>([a-z2-7-]{19})</code>", page.html)
    assert len(set(codes)) == 10
    return secret, codes


def log_in(house, code, name="ada", address="10.0.0.1"):
    """The page after password and code."""
    browser = house.stranger(address)
    page = browser.log_in(f"{name}@example.org")
    assert page.path == "/login" and page.status == 200 and "Your code" in page.text
    assert browser.get("/account").path == "/login"  # the password alone is no session
    return browser.submit(page, "/login/code", code=code)


def test_codes_are_those_of_the_rfc():
    # RFC 6238, appendix B, SHA-1: the last six of the eight digits at these times.
    secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
    for now, code in {59: "287082", 1111111109: "081804", 20000000000: "353130"}.items():
        assert step_of(secret, code, now) == now // 30
        assert code_at(secret, now) == code
    assert step_of(secret, "287082", 59 + 30) == 1  # half a minute late
    assert step_of(secret, "287082", 59 + 61) is None


def test_a_missing_library_is_named(house, monkeypatch):
    ada = house.browser("ada")
    monkeypatch.setitem(sys.modules, "segno", None)
    page = ada.submit(ada.get(OWN), f"{OWN}/begin")
    assert page.status == 422 and "segno is not installed here" in page.text


def test_a_code_is_asked_for_and_counts_once(house):
    ada = house.browser("ada")
    secret, _ = turn_on(house, ada)
    used = code_at(secret, house.clock.now)
    assert "was used before" in log_in(house, used).text
    house.clock.now += 30.0
    fresh = code_at(secret, house.clock.now)
    assert log_in(house, "000000" if fresh != "000000" else "000001").status == 401
    assert log_in(house, f"{fresh[:3]} {fresh[3:]}").path == "/admin"
    assert log_in(house, fresh).status == 401
    assert ada.get("/admin").status == 200
    with house.database.read() as connection:
        stored = people.user_by_email(connection, "ada@example.org")
        actions = [(one.action, str(one.detail)) for one in audit.entries(connection)]
    assert stored.totp_secret == secret and stored.settings == {}
    assert not [detail for _, detail in actions if secret in detail]


def test_the_secret_counts_only_after_its_first_code(house):
    ada = house.browser("ada")
    page = ada.submit(ada.get(OWN), f"{OWN}/begin")
    assert ada.submit(page, OWN, code="12345").status == 422
    assert house.browser("ada").get("/admin").status == 200  # no code was asked for
    first = page.text
    second = ada.submit(page, f"{OWN}/begin").text
    assert re.search(r"type the secret:.*", first)[0] != re.search(r"type the secret:.*", second)[0]


def test_a_recovery_code_logs_in_once_and_new_ones_end_the_old(house):
    ada = house.browser("ada")
    secret, codes = turn_on(house, ada)
    assert log_in(house, codes[0].upper().replace("-", " ")).path == "/admin"
    assert log_in(house, codes[0]).status == 401
    assert "Recovery codes left: 9." in ada.get(OWN).text
    house.clock.now += 30.0
    page = ada.submit(ada.get(OWN), f"{OWN}/codes", code=code_at(secret, house.clock.now))
    renewed = re.findall(r"<code>([a-z2-7-]{19})</code>", page.html)
    assert len(renewed) == 10 and not set(renewed) & set(codes)
    assert log_in(house, codes[1]).status == 401
    assert log_in(house, renewed[1]).path == "/admin"
    with house.database.read() as connection:
        rows = str(connection.exec_driver_sql("SELECT * FROM recovery_codes").all())
    assert renewed[2].replace("-", "") not in rows and renewed[2] not in rows


def test_guessing_codes_gets_slower_from_everywhere(house):
    secret, codes = turn_on(house, house.browser("ada"))
    house.clock.now += 60.0
    right = code_at(secret, house.clock.now)
    for number in range(5):
        assert log_in(house, f"{(int(right) + 1 + number) % 1_000_000:06}").status == 401
    late = log_in(house, right, address="10.7.7.7")
    assert late.status == 429 and late.response.headers["Retry-After"] == "1"
    assert log_in(house, codes[0]).status == 429
    house.clock.now += 1.0
    assert log_in(house, "wrong").status == 401
    house.clock.now += 1.0
    assert log_in(house, right).status == 429  # two seconds now
    house.clock.now += 1.0
    assert log_in(house, right).path == "/admin"


def test_a_ticket_ends_with_its_time_and_with_its_use(house):
    secret, _ = turn_on(house, house.browser("ada"))
    house.clock.now += 60.0
    browser = house.stranger()
    page = browser.log_in("ada@example.org")
    house.clock.now += 300.0
    code = code_at(secret, house.clock.now)
    late = browser.submit(page, "/login/code", code=code)
    assert late.status == 401 and "took too long" in late.text
    page = browser.log_in("ada@example.org")
    assert browser.submit(page, "/login/code", code=code).path == "/admin"
    again = house.stranger()
    fields = page.form("/login/code") | {"code": code_at(secret, house.clock.now + 30)}
    fields["token"] = again.get("/login").forms[0].fields["token"]
    assert again.post("/login/code", fields).status == 401


@pytest.mark.parametrize("role", ["researcher", "reviewer"])
def test_a_role_that_needs_one_sees_nothing_before(house, role):
    house.app.state.service = replace(house.service, second_factor=frozenset({"researcher"}))
    house.person("rea", role)
    rea = house.stranger()
    page = rea.log_in("rea@example.org")
    if role == "reviewer":
        assert page.path == "/admin"
        return
    assert page.path == OWN and "Your role needs one" in page.text
    assert rea.get("/admin/projects/1").path == OWN
    token = page.forms[0].fields["token"]
    assert rea.post("/admin/projects", {"token": token}).status == 403
    secret, _ = turn_on(house, rea)
    assert rea.get("/admin/projects/1").path == "/admin/projects/1"
    house.clock.now += 30.0
    sent = {"token": token, "password": "x", "code": code_at(secret, house.clock.now)}
    assert rea.post(f"{OWN}/off", sent).status == 422


def test_a_labeler_may_have_one_and_switch_it_off(house):
    house.person("lea")
    lea, other = house.browser("lea"), house.browser("lea")
    secret, _ = turn_on(house, lea)
    assert other.get("/").path == "/login"  # sessions from before are over
    house.clock.now += 30.0
    code = code_at(secret, house.clock.now)
    page = lea.get(OWN)
    assert lea.submit(page, f"{OWN}/off", password="wrong", code=code).status == 422
    for _ in range(4):
        lea.submit(page, f"{OWN}/off", password="wrong", code=code)
    right = {"password": "seven quiet herons", "code": code}
    assert "Too many attempts" in lea.submit(page, f"{OWN}/off", **right).text
    house.clock.now += 1.0
    page = lea.submit(page, f"{OWN}/off", **right)
    assert "Set it up" in page.text
    assert house.browser("lea").get("/").path == "/"
