"""Prompts that labelers write: plain, few-shot and after a use case, from task to training file."""

from __future__ import annotations

import json

from heedful.labeling.forms import doubts
from heedful.store.answers import DemonstrationAnswer, PromptAnswer
from heedful.store.assignments import Work

FIRST = "/admin/projects/1"


def order(house, **fields):
    """A researcher's order of prompts to write; the page that comes back."""
    ada = house.browser("ada")
    path = f"{FIRST}/writing"
    return ada.submit(ada.get(path), path, **fields)


def exported(house, name):
    """The rows of a file of a fresh snapshot."""
    ada = house.browser("ada")
    page = ada.submit(ada.get(FIRST), f"{FIRST}/snapshots")
    address = next(link for link in page.links if link.endswith(f"/{name}"))
    return [json.loads(line) for line in ada.get(address).html.splitlines()]


def work_of(page):
    (action,) = [form.action for form in page.forms if form.action.endswith("/submit")]
    return action


def test_three_pairs_become_three_examples_in_the_snapshot(house):
    assert "1 tasks were made." in order(house, kind="few_shot", number="1").text
    house.person("lea")
    lea = house.browser("lea")
    page = house.begin(lea, "prompt")
    action = work_of(page)
    given = {"text": "Say the opposite.", "pairs.0.input": "hot", "pairs.0.output": "cold"}
    page = lea.post(action, page.form(action) | given)
    assert page.status == 422 and "at least two pairs" in page.text
    given |= {"pairs.1.input": "big", "pairs.1.output": "small", "pairs.2.input": "wet"}
    page = lea.post(action, page.form(action) | given)
    assert page.status == 422 and "#pairs.2.output" in page.links
    given |= {"pairs.2.output": "dry", "use_case": "rewrite"}
    page = lea.post(action, page.form(action) | given)
    assert "Submitted." in page.text
    first, second, third = exported(house, "demonstrations.jsonl")
    assert first["prompt"] == (
        "Say the opposite.\n\nInput: big\nOutput: small\n\nInput: wet\nOutput: dry\n\n"
        "Input: hot\nOutput:"
    )
    assert [row["response"] for row in (first, second, third)] == ["cold", "small", "dry"]
    prompts = exported(house, "prompts.jsonl")
    assert {(row["kind"], row["use_case"], row["source"]) for row in prompts} == {
        ("few_shot", "rewrite", "labeler")
    }
    assert len({row["split"] for row in prompts}) == 1  # all of one instruction on one side


def test_another_pair_keeps_what_was_typed_without_a_script(house):
    order(house, kind="few_shot", number="1")
    house.person("lea")
    lea = house.browser("lea")
    page = house.begin(lea, "prompt")
    action = work_of(page)
    save = action.replace("submit", "save")
    typed = {"text": "Count.", "pairs.0.input": "one\r\n two"}
    page = lea.post(save, page.form(action) | typed | {"num_pairs": "4"})
    fields = page.form(action)
    assert fields["pairs.3.input"] == "" and fields["pairs.0.input"] == "one\r\n two"
    assert "pairs.4.input" not in fields
    page = lea.post(save, fields | {"num_pairs": "99"})
    assert "pairs.11.output" in page.form(action) and "pairs.12.input" not in page.form(action)


def test_a_use_case_is_shown_and_the_prompt_can_wait_for_a_response(house):
    page = order(house, kind="user_based", number="1", briefs="A shop <b>writes</b> to customers")
    assert "1 tasks were made." in page.text
    for name in ("lea", "leo"):
        house.person(name)
    lea, leo = house.browser("lea"), house.browser("leo")
    page = house.begin(lea, "prompt")
    assert "A shop &lt;b&gt;writes&lt;/b&gt; to customers" in page.html
    action = work_of(page)
    assert lea.submit(page, action, text=" ").status == 422
    assert "Submitted." in lea.submit(page, action, text="Tell them that we moved.").text
    ada = house.browser("ada")
    page = ada.get(f"{FIRST}/writing")
    assert "1 written prompts have no response" in page.text
    page = ada.submit(page, f"{FIRST}/writing/responses")
    assert "1 tasks were made." in page.text and "0 written prompts" in page.text
    # Nobody answers their own prompt: for its author there is nothing to do.
    page = house.begin(lea, "demonstration")
    assert "no more demonstrations" in page.text
    page = house.begin(leo, "demonstration")
    assert "Tell them that we moved." in page.text
    leo.submit(page, work_of(page), response="We have moved.")
    (row,) = exported(house, "demonstrations.jsonl")
    assert (row["prompt"], row["response"]) == ("Tell them that we moved.", "We have moved.")


def test_orders_that_cannot_be_are_refused(house):
    for fields, why in (
        ({"kind": "essay"}, "Choose a kind"),
        ({"kind": "plain", "number": "0"}, "from 1 to 1000"),
        ({"kind": "plain", "number": "1e3"}, "from 1 to 1000"),
        ({"kind": "user_based", "briefs": " \n"}, "need use cases"),
        ({"kind": "user_based", "number": "501", "briefs": "a\nb"}, "1,002 tasks"),
    ):
        page = order(house, **fields)
        assert page.status == 422 and why in page.text, fields
    page = order(house, kind="plain", number="2", briefs="not used")
    assert "2 tasks were made." in page.text


def work(prompt="", outputs=()):
    schema = None
    return Work(
        "w",
        1,
        "demonstration",
        "leased",
        prompt,
        "",
        None,
        outputs,
        0.0,
        1,
        schema,
        {},
        0,
        None,
        None,
    )


def test_soft_checks_name_what_is_worth_a_second_look():
    shots = "Do so.\n\nInput: a\nOutput: b\n\nInput: c\nOutput:"
    for response, prompt, found in (
        ("d", shots, []),
        ("d\n\nInput: e\nOutput: f", shots, ["goes_on"]),
        ("d\n\nInput: e", "Say hello", []),
        ("Say hello: hello", "Say hello", ["repeats_prompt"]),
    ):
        assert doubts(DemonstrationAnswer(response), work(prompt), None) == found, response
    pairs = (("a", "b"), (" a", "c"))
    assert doubts(PromptAnswer("Do so.", pairs=pairs), work(), None) == ["same_input"]
    # 250 characters at 100 a second
    long = work("x" * 150, ("y" * 50, "z" * 50))
    assert doubts(DemonstrationAnswer("d"), long, 2.4) == ["too_fast"]
    assert doubts(DemonstrationAnswer("d"), long, 2.6) == []
