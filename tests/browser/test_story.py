"""The whole story in a real browser, from an empty service to a reward model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyotp
import pytest
from playwright.sync_api import Page, expect

from heedful.cli import main
from heedful.metrics import read_metrics
from heedful.training.checkpoint import publish

PASSWORD = "seven quiet herons"
ROWS = [
    {
        "id": "birds",
        "prompt": "Name a bird.",
        "split": "train",
        "completions": [
            {"id": "b1", "text": "A heron.", "model": "SECRET-one"},
            {"id": "b2", "text": "A grey heron that stands in the river.", "model": "SECRET-two"},
            {"id": "b3", "text": "An oak.", "model": "SECRET-one"},
            {"id": "b4", "text": "The oak is a tree.", "model": "SECRET-two"},
        ],
    },
    {
        "id": "trees",
        "prompt": "Name a tree.",
        "split": "train",
        "completions": [
            {"id": "t1", "text": "An oak.", "model": "SECRET-one"},
            {"id": "t2", "text": "The oak is a tree by the river.", "model": "SECRET-two"},
            {"id": "t3", "text": "A heron.", "model": "SECRET-one"},
            {"id": "t4", "text": "A river.", "model": "SECRET-two"},
        ],
    },
]
# By the text: what both labelers think of it, except that Leo turns two of the trees around.
RANKS = {
    "Name a bird.": {"A heron.": 1, "A grey": 1, "An oak.": 3, "The oak": 4},
    "Name a tree.": {"An oak.": 2, "The oak": 1, "A heron.": 3, "A river.": 4},
}


def lines(*rows: dict) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def upload(page: Page, content: bytes, what: str) -> None:
    """Sends a file by the form of the project's page."""
    file = {"name": f"{what}.jsonl", "mimeType": "application/octet-stream", "buffer": content}
    page.get_by_label("File (").set_input_files(file)
    page.locator(f"[name='what'][value='{what}']").check()
    page.get_by_role("button", name="Import").click()


def invite(page: Page, email: str, role: str) -> str:
    """The link of an invitation."""
    page.get_by_role("link", name="Labelers").click()
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Role").select_option(role)
    page.get_by_role("button", name="Make a link").click()
    return page.locator("code").inner_text()


def accept(page: Page, link: str, name: str) -> None:
    page.goto(link)
    page.get_by_label("Your name").fill(name)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("The password again").fill(PASSWORD)
    page.get_by_role("button", name="Make my account").click()
    expect(page.get_by_role("link", name=name)).to_be_visible()


def set_up_second_factor(page: Page) -> None:
    """Does what an authenticator app and its owner do."""
    page.get_by_role("button", name="Set it up").click()
    secret = page.locator("main p code").inner_text()
    page.get_by_label("Six digits").fill(pyotp.TOTP(secret.replace(" ", "")).now())
    page.get_by_role("button", name="Turn it on").click()
    expect(page.locator(".codes code")).to_have_count(10)
    page.get_by_role("link", name="Go on").click()


def add_items(page: Page) -> None:
    """Makes a screening test of two items."""
    page.get_by_role("link", name="Screening").click()
    page.get_by_text("A sensitive text").click()
    page.locator("#flags_prompt").fill("Why are all herons thieves?")
    page.get_by_role("group", name="The right answer").get_by_label("yes").check()
    page.get_by_role("button", name="Add").locator("visible=true").first.click()
    page.get_by_text("A prompt to respond to").click()
    page.locator("#demonstration_prompt").fill("How do I scare a heron?")
    page.get_by_role("button", name="Add").locator("visible=true").last.click()
    expect(page.locator("ol > li.card")).to_have_count(2)


def take_test(page: Page) -> None:
    """A labeler's screening, up to handing it in."""
    page.get_by_role("link", name="Helpful answers").click()
    page.get_by_role("link", name="To the test").click()
    page.get_by_role("button", name="Begin").click()
    page.get_by_label("yes").check()
    page.get_by_role("button", name="Save and next").click()
    page.get_by_label("Your response").fill("Please do not: herons are shy.")
    page.get_by_role("button", name="Save and next").click()
    page.get_by_role("button", name="Hand the test in").click()
    expect(page.get_by_text("You have handed the test in.")).to_be_visible()


def decide(page: Page) -> None:
    """Reads every candidate's test and takes them on; their names are not on the page."""
    page.get_by_role("link", name="Screening").click()
    links = page.locator("tbody th a")
    expect(links).to_have_count(2)
    for code in links.all_inner_texts():
        page.get_by_role("link", name="Screening").click()
        page.get_by_role("link", name=code).click()
        assert not re.search("Lea|Leo", page.locator("main").inner_text())
        page.locator("[name^='score.'][value='6']").check()
        page.get_by_role("button", name="Keep my scores").click()
        expect(page.get_by_role("row", name="demonstration")).to_contain_text("reaches the cut-off")
        page.get_by_label("yes, they are given work").check()
        page.get_by_role("button", name="Decide").click()


def rank_all(page: Page, turned: bool, submit) -> int:
    """Rates and ranks what there is to do, by radio buttons; returns how many tasks it was."""
    for number in range(10):
        if not page.url.count("/work/"):
            return number
        prompt = page.locator(".beside .text").inner_text()
        for place, output in enumerate(page.locator(".output").all()):
            text = output.locator(".answer").inner_text()
            (rank,) = [r for start, r in RANKS[prompt].items() if text.startswith(start)]
            if turned and prompt == "Name a tree." and rank < 3:
                rank = 3 - rank
            output.locator(f"[name='ranks.{place}'][value='{rank}']").check()
            output.locator(f"[name='ratings.{place}'][value='{8 - rank}']").check()
            output.get_by_role("button", name="No to all").click()
            output.locator("[name$='.satisfies_constraint'][value='yes']").check()
        submit(page)
    raise AssertionError("the tasks did not end")


@pytest.fixture
def small_model(tmp_path, tiny_model):
    """The folder of a random model that knows the words of this story."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    texts = [row["prompt"] for row in ROWS]
    texts += [one["text"] for row in ROWS for one in row["completions"]]
    words = ["<eos>", "<pad>", "<unk>", *sorted({word for t in texts for word in t.split()})]
    vocabulary = {word: i for i, word in enumerate(words)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<eos>", bos_token="<eos>", pad_token="<pad>"
    )
    return publish(tiny_model(), tokenizer, tmp_path / "model", {})


def set_up(page: Page) -> dict[str, str]:
    """Ada's part: a project with work in it; the links for those she invites."""
    fields = {"name": "Helpful answers", "guideline": "Be kind."}
    fields |= {"overlap_percent": "100", "overlap_n": "2", "gold_percent": "0"}
    for name, value in (fields | {"drift_percent": "0"}).items():
        page.locator(f"#{name}").fill(value)
    page.get_by_role("button", name="Make the project").click()
    upload(page, lines({"id": "hello", "text": "Say hello."}), "prompts")
    expect(page.get_by_text("1 prompts were read, 1 tasks were made.")).to_be_visible()
    upload(page, lines(*ROWS), "completions")
    expect(page.get_by_text("2 prompts were read, 2 tasks were made.")).to_be_visible()
    add_items(page)
    people = {"Lea": "labeler", "Leo": "labeler", "Rea": "researcher"}
    return {name: invite(page, f"{name.lower()}@example.org", people[name]) for name in people}


def label(page: Page, name: str, submit) -> None:
    """A labeler's work: reads, writes, ranks."""
    page.get_by_role("link", name="Helpful answers").click()
    page.get_by_role("link", name="Read them first.").click()
    page.get_by_role("button", name="I have read this").click()
    if name == "Lea":
        page.get_by_role("button", name="Write a demonstration").click()
        page.get_by_label("Your response").fill("Hello! How can I help you?")
        submit(page, "Control+Enter")
    page.get_by_role("button", name="Rate and rank").click()
    page.wait_for_url("**/work/**")
    assert rank_all(page, name == "Leo", submit) == 2
    assert "SECRET" not in page.content()
    in_all = page.get_by_role("row", name="In all").get_by_role("cell").first
    expect(in_all).to_have_text("3" if name == "Lea" else "2")


def test_from_an_empty_service_to_a_reward_model(
    new_service, open_browser, log_in, submit, small_model, tmp_path: Path
):
    ada, lea, leo = (open_browser() for _ in range(3))
    log_in(ada, new_service, "ada")
    set_up_second_factor(ada)
    links = set_up(ada)
    for page, name in ((lea, "Lea"), (leo, "Leo")):
        accept(page, links[name], name)
        take_test(page)
    decide(ada)
    for page, name in ((lea, "Lea"), (leo, "Leo")):
        label(page, name, submit)

    rea = open_browser(accept_downloads=True)
    accept(rea, links["Rea"], "Rea")
    set_up_second_factor(rea)
    rea.get_by_role("link", name="Helpful answers").click()
    rea.get_by_role("link", name="Labelers").click()
    # Of 12 pairs both tied one; of the other 11 one is the other way round.
    expect(rea.get_by_role("row", name=re.compile("^strict"))).to_contain_text("90.9%")
    expect(rea.get_by_text("2 tasks shared by 2 labelers")).to_be_visible()
    rea.get_by_role("link", name="Helpful answers").click()
    rea.get_by_role("button", name="Make a snapshot").click()
    with rea.expect_download() as download:
        rea.get_by_role("link", name="comparisons.jsonl").click()
    comparisons = tmp_path / "comparisons.jsonl"
    download.value.save_as(comparisons)
    rows = [json.loads(line) for line in comparisons.read_text(encoding="utf-8").splitlines()]
    assert sorted((row["prompt_id"], sorted(row["ranks"])) for row in rows) == [
        ("birds", [1, 1, 2, 3]),  # without the gap that the labelers left
        ("birds", [1, 1, 2, 3]),
        ("trees", [1, 2, 3, 4]),
        ("trees", [1, 2, 3, 4]),
    ]

    words = [f"--run_dir={tmp_path / 'run'}", f"--base={small_model}", "--compute.dtype=float32"]
    data = [f'--data.comparisons=["{comparisons}"]', "--optim.lr=1e-3", "--optim.batch_size=1"]
    assert main(["reward", *words, *data]) == 0
    counts = [row["reward/num_pairs"] for row in read_metrics(tmp_path / "run")]
    assert sorted(counts) == [10, 12]  # two labelers; the tie of the birds is no pair
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
