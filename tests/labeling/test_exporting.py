"""What leaves the service beside the snapshot's own files, and tasks that show drift."""

from __future__ import annotations

import json

from heedful.store import people, pools, projects, tasks

FIRST = "/admin/projects/1"


def rank_all(house, name):
    """How many tasks there were; each is ranked by the texts of its outputs, in the alphabet."""
    browser = house.browser(name)
    page, number = house.begin(browser, "ranking"), 0
    while page.path.startswith("/work/"):
        with house.database.read() as connection:
            user = people.user_by_email(connection, f"{name}@example.org")
            work = tasks.view(connection, page.path.removeprefix("/work/"), user.id)
        ranks = [1 + sorted(work.outputs).index(text) for text in work.outputs]
        action = f"{page.path}/submit"
        sent = page.form(action) | house.ranked(ranks, [8 - rank for rank in ranks])
        page, number = browser.post(action, sent), number + 1
    return number


def test_a_snapshot_is_had_as_consensus_and_parquet(house, completions_file):
    house.load(completions_file)
    ada = house.browser("ada")
    path = f"{FIRST}/settings"
    ada.submit(ada.get(FIRST), path, overlap_percent="100", overlap_n="2", heldout_n="1")
    for name, cohort in (("lea", "train"), ("leo", "train"), ("hal", "heldout")):
        house.person(name, cohort=cohort)
        assert rank_all(house, name) == 2
    page = ada.submit(ada.get(FIRST), f"{FIRST}/snapshots", heldout="on")
    (address,) = [link for link in page.links if link.endswith("/consensus.jsonl")]
    found = [json.loads(line) for line in ada.get(address).html.splitlines()]
    assert all(row["chosen"] < row["rejected"] for row in found)
    assert {(r["cohort"], r["num_chosen"], r["num_rejected"], r["num_tied"]) for r in found} == {
        ("train", 2, 0, 0),
        ("heldout", 1, 0, 0),
    }
    assert len(found) == 12  # three pairs of two prompts for each cohort
    table = ada.get(address.replace("consensus.jsonl", "comparisons.parquet"))
    assert table.status == 200 and table.response.content[:4] == b"PAR1"
    assert ada.get(address.replace("consensus.jsonl", "people.jsonl")).status == 404


def test_constant_tasks_are_for_everybody_and_train_nothing(house, completions_file):
    assert "2 tasks were made" in house.load(completions_file, what="constant").text
    ada = house.browser("ada")
    ada.submit(ada.get(FIRST), f"{FIRST}/settings", drift_percent="100")
    for name in ("lea", "leo"):
        house.person(name)
        assert rank_all(house, name) == 2
    page = ada.submit(ada.get(FIRST), f"{FIRST}/snapshots")
    (address,) = [link for link in page.links if link.endswith("/comparisons.jsonl")]
    assert ada.get(address).html == ""
    page = ada.submit(ada.get(FIRST), f"{FIRST}/snapshots", shared="on")
    addresses = [link for link in page.links if link.endswith("/comparisons.jsonl")]
    assert max(len(ada.get(one).html.splitlines()) for one in addresses) == 4


def test_held_out_labelers_are_given_nothing_that_is_not_shared(house, completions_file):
    house.load(completions_file)
    house.person("hal", cohort="heldout")
    assert rank_all(house, "hal") == 0
    ada = house.browser("ada")
    for number, tasks_of_hal in (("0", 0), ("1", 2)):
        ada.submit(ada.get(FIRST), f"{FIRST}/settings", overlap_percent="100", heldout_n=number)
        assert rank_all(house, "hal") == tasks_of_hal
    with house.database.read() as connection:
        assert projects.get(connection, 1).settings.heldout_n == 1
        assert pools.kinds(connection, 1) == ["ranking"]
