"""Accounts, erasures and the record: what admins do about people."""

from __future__ import annotations

import hashlib
import json
import re

from heedful.store import audit, people

PEOPLE = "/admin/people"
NEW = {"password": "eight loud herons", "again": "eight loud herons"}


def token_of(browser):
    return {"token": browser.get("/account").forms[0].fields["token"]}


def test_a_forgotten_password_is_set_by_a_link_that_works_once(house):
    user_id = house.person("lea")
    ada, lea = house.browser("ada"), house.browser("lea")
    for _ in range(5):
        house.stranger().log_in("lea@example.org", "a wrong password")
    page = ada.post(f"{PEOPLE}/{user_id}/password", token_of(ada))
    (link,) = re.findall(r"http://label\.test(/password/[\w-]{43})", page.text)
    stranger = house.stranger("10.1.1.1")
    page = stranger.get(link)
    assert page.status == 200 and stranger.get(link).status == 200  # looking uses nothing up
    assert "lea" not in page.text
    assert stranger.submit(page, link, password="short", again="short").status == 422
    assert stranger.submit(page, link, password="eight loud herons", again="x").status == 422
    assert stranger.submit(page, link, **NEW).path == "/login"
    assert lea.get("/").path == "/login"  # every session has ended
    assert stranger.submit(page, link, **NEW).status == 404
    assert stranger.log_in("lea@example.org").status == 401
    assert stranger.log_in("lea@example.org", NEW["password"]).path == "/"


def test_a_link_for_a_password_ends_with_its_day_and_with_the_next_one(house):
    user_id = house.person("lea")
    ada, links = house.browser("ada"), []
    for _ in range(2):
        page = ada.post(f"{PEOPLE}/{user_id}/password", token_of(ada))
        links += re.findall(r"http://label\.test(/password/[\w-]{43})", page.text)
    stranger = house.stranger()
    assert stranger.get(links[0]).status == 404 and stranger.get(links[1]).status == 200
    house.clock.now += 24 * 3600.0
    assert stranger.get(links[1]).status == 404


def test_roles_change_and_accounts_close_at_once(house):
    user_id = house.person("rea", "researcher")
    ada, rea = house.browser("ada"), house.browser("rea")
    assert rea.get(PEOPLE).status == 404
    path, token = f"{PEOPLE}/{user_id}", token_of(ada)
    page = ada.post(path, token | {"role": "reviewer", "state": "active"})
    assert "rea is reviewer" in page.text and rea.get("/").path == "/login"
    rea = house.browser("rea")
    assert rea.post("/admin/projects", token_of(rea)).status == 404
    ada.post(path, token | {"role": "reviewer", "state": "disabled"})
    assert rea.get("/").path == "/login"
    assert house.stranger().log_in("rea@example.org").status == 401
    link = ada.post(f"{path}/password", token).text
    assert house.stranger().get(re.search(r"/password/[\w-]{43}", link)[0]).status == 404
    assert ada.post(path, token | {"role": "king", "state": "active"}).status == 422
    assert ada.post(f"{PEOPLE}/1", token | {"role": "labeler", "state": "active"}).status == 422
    assert ada.post(f"{PEOPLE}/99", token | {"role": "labeler", "state": "active"}).status == 404
    with house.database.read() as connection:
        found = audit.entries(connection, object=f"user/{user_id}")
        assert {"role": "reviewer", "state": "disabled"}.items() <= found[2].detail.items()


def test_people_are_found_by_name_or_address(house):
    names = ["kim", "lea", *(f"p{number}" for number in range(105))]
    house.database.write(
        lambda c: [
            people.add_user(c, f"{name}@example.org", name, "labeler", None, actor=1, now=1.0)
            for name in names
        ]
    )
    ada = house.browser("ada")
    page = ada.get(PEOPLE)
    assert "And 8 more" in page.text  # Ada, kim, lea and 97 of the others are shown
    page = ada.get(f"{PEOPLE}?find=LEA@")
    assert "Role of lea" in page.text and "Role of kim" not in page.text
    assert "There is nobody like that." in ada.get(f"{PEOPLE}?find=%3Cscript").text


def test_a_lost_phone_and_a_lost_laptop(house):
    user_id = house.person("rea", "researcher")
    ada, rea = house.browser("ada"), house.browser("rea")
    house.database.write(
        lambda c: people.change_user(
            c, user_id, totp_secret="GEZDGNBVGY3TQOJQ", actor=1, now=house.clock.now
        )
    )
    assert "Second factor: on" in ada.get(PEOPLE).text
    assert house.stranger().log_in("rea@example.org").path == "/login"
    ada.post(f"{PEOPLE}/{user_id}/second-factor", token_of(ada))
    assert rea.get("/admin").path == "/login"
    again = house.browser("rea")
    assert again.get("/admin").status == 200
    page = ada.post(f"{PEOPLE}/{user_id}/sessions", token_of(ada))
    assert "1 sessions have ended" in page.text and again.get("/admin").path == "/login"
    two = [house.browser("rea"), house.browser("rea")]
    page = two[0].get("/account")
    two[0].submit(page, "/account/sessions")
    assert two[1].get("/").path == "/login" and two[0].get("/admin").status == 200


def test_an_erased_labeler_is_gone_and_what_held_the_data_is_named(house, completions_file):
    house.load(completions_file)
    user_id = house.person("lea")
    lea, ada = house.browser("lea"), house.browser("ada")
    page = house.begin(lea, "ranking")
    action = f"{page.path}/submit"
    lea.post(action, page.form(action) | house.ranked((1, 2, 3), (7, 5, 3)))
    ada.submit(ada.get("/admin/projects/1"), "/admin/projects/1/snapshots")
    (folder,) = (house.snapshots / "1").iterdir()
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    digest = manifest["files"]["comparisons.jsonl"]["sha256"]
    pairs = ada.get("/admin/projects/1/snapshots/1/pairs.jsonl").response.content
    of_pairs = hashlib.sha256(pairs).hexdigest()
    models = {"reward": digest, "on-pairs": of_pairs, "other": "0" * 64}
    for name, used in models.items():
        model = house.runs / name / "model"
        model.mkdir(parents=True)
        lineage = {"sha256": name, "parents": {}, "data": {"x": used}}
        (model / "heedful.json").write_text(json.dumps(lineage), encoding="utf-8")

    page = ada.post(f"{PEOPLE}/{user_id}/password", token_of(ada))
    (link,) = re.findall(r"http://label\.test(/password/[\w-]{43})", page.text)
    path = f"{PEOPLE}/{user_id}/erase"
    page = ada.get(path)
    assert "first: 1 answers" in page.text
    assert ada.submit(page, path, email="leo@example.org").status == 422
    page = ada.submit(page, path, email=" Lea@example.org")
    assert "1 answers and 0 prompts" in page.text and folder.name in page.text
    assert f"{house.runs / 'reward/model'}" in page.text and "other/model" not in page.text
    assert f"{house.runs / 'on-pairs/model'}" in page.text and of_pairs in page.text
    assert (
        lea.get("/").path == "/login" and house.stranger().log_in("lea@example.org").status == 401
    )
    assert ada.get(path).status == 404 and house.stranger().get(link).status == 404
    with house.database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM tickets").scalar() == 0
    assert "lea" not in ada.get(PEOPLE).text
    assert f"erased, user/{user_id}" in ada.get("/admin/audit").text
    page = ada.get(f"{PEOPLE}/1/erase")
    assert ada.submit(page, f"{PEOPLE}/1/erase", email="ada@example.org").status == 422
    (house.runs / "other/model/heedful.json").write_text("{", encoding="utf-8")
    bo = house.person("bo")
    page = ada.get(f"{PEOPLE}/{bo}/erase")
    page = ada.submit(page, f"{PEOPLE}/{bo}/erase", email="bo@example.org")
    assert page.status == 200 and "could not be searched" in page.text


def test_a_customers_prompts_and_a_flagged_prompt_go_for_good(house, completions_file):
    house.load(completions_file)
    house.load(b'{"id": "p", "text": "Say CANARY-name"}\n', what="prompts")
    house.person("lea")
    lea, ada = house.browser("lea"), house.browser("ada")
    page = house.begin(lea, "demonstration")
    lea.submit(page, f"{page.path}/submit", to=f"{page.path}/flag", reason="a name")
    quarantine = "/admin/projects/1/quarantine"
    page = ada.get(quarantine)
    assert "Say CANARY-name" in page.text
    number = page.form(f"{quarantine}/remove")
    page = ada.post(f"{quarantine}/remove", number)
    assert "0 answers and 1 prompts were deleted" in page.text
    assert "There are none." in ada.get(quarantine).text
    assert ada.post(f"{quarantine}/remove", number).status == 404
    house.person("rev", "reviewer")
    rev = house.browser("rev")
    assert rev.post(f"{quarantine}/remove", token_of(rev) | {"prompt": "1"}).status == 404

    path = "/admin/projects/1/erasure"
    page = ada.get(path)
    wrong = ada.submit(page, path, customer="nobody")
    assert wrong.status == 422 and "no prompts of" in wrong.text
    page = ada.submit(page, path, customer="CANARY-customer")
    assert "0 answers and 2 prompts were deleted" in page.text


def test_the_record_shows_who_did_what_and_whether_it_is_whole(house):
    house.person("lea")
    ada = house.browser("ada")
    page = ada.get("/admin/audit")
    assert "log in" in page.text and "add user" in page.text and "Ada" in page.text
    page = ada.get("/admin/audit?object=user/2")
    assert "create project" not in page.text and "add user" in page.text
    with house.database.read() as connection:
        newest = audit.entries(connection)[0].seq
    page = ada.get(f"/admin/audit?before={newest}")
    assert f'<th scope="row">{newest}</th>' not in page.html
    assert f'<th scope="row">{newest - 1}</th>' in page.html
    assert "The record is whole" in ada.submit(page, "/admin/audit/check").text
    house.database.write(
        lambda c: c.exec_driver_sql("UPDATE audit SET action = 'nothing' WHERE seq = 3") and None
    )
    assert "Entry 3 is not as it was" in ada.submit(page, "/admin/audit/check").text
    for name, role in (("rev", "reviewer"), ("rea", "researcher")):
        house.person(name, role)
        status = house.browser(name).get("/admin/audit").status
        assert status == (200 if role == "researcher" else 404)
