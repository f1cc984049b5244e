"""The real service in a process of its own, and Debian's Chromium that people would use it with.

Set HEEDFUL_SCREENSHOTS to a folder to have the pictures of the guide made.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page, expect, sync_playwright

from heedful.labeling.auth import hash_password
from heedful.records import Completion, Prompt, Rating
from heedful.store import people, pools, projects, screening, tasks, threads
from heedful.store.answers import LabelSchema, PromptLabels, RankingAnswer
from heedful.store.database import open_database

PASSWORD = "seven quiet herons"
ROOT = Path(__file__).parents[2]
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
# Checks pages against WCAG; fetched once, into a folder that git does not keep.
AXE = "4.14.1"
AXE_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
START_S = 180.0
PATIENCE_MS = 180_000  # machines may be busy


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A running browser. Of one module: while it runs, no other test can have an event loop."""
    path = shutil.which("chromium")
    if path is None:
        pytest.fail("there is no chromium: apt-get install chromium, or run .ci/run")
    # As root the browser refuses its own sandbox; what it opens here is ours.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def open_browser(chromium: Any) -> Iterator[Callable[..., Page]]:
    """Opens a window of somebody; at the end no page may have broken its policy or its script."""
    contexts: list[BrowserContext] = []
    problems: list[str] = []

    def open_one(**settings: Any) -> Page:
        context = chromium.new_context(**{"viewport": WIDE, **settings})
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(f"{page.url}: {error}"))
        page.on("console", lambda said: _note(problems, page, said))
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert problems == []


def _note(problems: list[str], page: Page, said: Any) -> None:
    """Keeps what the browser complains about; a cut network and answers of 4xx are meant."""
    if said.type == "error" and "Failed to load resource" not in said.text:
        problems.append(f"{page.url}: {said.text}")


def heed(*words: str) -> subprocess.Popen[str]:
    """A command of heedful in a process of its own."""
    command = [sys.executable, "-c", "import sys; from heedful.cli import main; sys.exit(main())"]
    return subprocess.Popen(
        [*command, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def serve(database: Path | str, snapshots: Path, port: int, *more: str) -> Iterator[str]:
    """Runs ``heed label serve``; yields where it is."""
    words = ["--database", str(database), "--port", str(port), "--snapshots", str(snapshots)]
    process = heed("label", "serve", *words, *more)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(url, process)
        yield url
    finally:
        process.terminate()
        said, _ = process.communicate(timeout=START_S)
        assert "Traceback" not in said, said


def _wait_for(url: str, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        assert process.poll() is None, process.communicate()[0]
        try:
            if httpx.get(f"{url}/health").text == "ok":
                return
        except httpx.TransportError:
            time.sleep(0.1)
    pytest.fail(f"the service did not answer within {START_S} s")


@pytest.fixture(scope="module")
def new_service(
    tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Iterator[str]:
    """Where a service is that has one admin, ada@example.org, made by ``heed label init``."""
    home = tmp_path_factory.mktemp("new")
    secret = home / "secret"
    secret.write_text(PASSWORD, encoding="utf-8")
    database = str(home / "labels.db")
    words = ["--database", database, "--email", "ada@example.org", "--name", "Ada"]
    init = heed("label", "init", *words, "--password-file", str(secret))
    said, _ = init.communicate(timeout=START_S)
    assert init.returncode == 0, said
    yield from serve(database, home / "snapshots", free_port())


AT_WORK = ("ann", "ben", "cem", "dia", "eva", "fay", "gus")
PROMPTS = (
    "Explain why leaves fall in autumn to a child of six.",
    "A reader of our children's page asks: why are the trees bare in winter?",
    "Why do trees drop their leaves? Answer as a gardener would, in a few words.",
    "My daughter is sad that the leaves fall. Tell me what I can say to her.",
)
OUTPUTS = (
    "The tree saves its strength for the winter, so it lets the leaves go.",
    "Because of the wind.",
    "Leaves need light and water. In autumn there is little of both, and the ground is cold, so "
    "the tree takes back what is good in the leaf, closes the door where the leaf stood, and the "
    "next wind carries it away. In spring it makes new ones.",
    "Leaves fall. Leaves fall. Leaves fall.",
)
ITEMS = (
    (
        "flags",
        {"prompt": "Why?", "output": None, "questions": ["Sensitive?"]},
        {"Sensitive?": True},
    ),
    ("ranking", {"prompt": "Name a bird.", "outputs": ["A heron.", "An oak."]}, [1, 2]),
    ("demonstration", {"prompt": "How do I scare a heron?"}),
    ("topics", {"question": "Which languages do you speak?"}),
)


@pytest.fixture(scope="module")
def furnished(
    tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Iterator[SimpleNamespace]:
    """A service with an untouched project in strict and one in fast mode, and one long at work.

    Everybody has the same password and no second factor: ada (admin), rea (researcher), ray
    (reviewer); lea, leo and liv in the untouched projects; ``AT_WORK`` in the other, in which liv
    is screened and leo was.
    """
    home = tmp_path_factory.mktemp("furnished")
    now = time.time()
    database = open_database(home / "labels.db", now=now)
    hashed = hash_password(PASSWORD)
    roles = {"ada": "admin", "rea": "researcher", "ray": "reviewer"}
    names = [*roles, "lea", "leo", "liv", *AT_WORK]

    def fill(connection: Any) -> dict[str, int]:
        numbers = {}
        for name in names:
            email, role = f"{name}@example.org", roles.get(name, "labeler")
            one = people.add_user(
                connection, email, name.title(), role, hashed, actor=None, now=now
            )
            numbers[name] = one.id
        for mode in ("strict", "fast"):
            project = _add_project(connection, mode, mode, numbers, now)
            _add_members(connection, project, ("lea", "leo", "liv"), numbers, now)
        _add_busy_project(connection, numbers, now)
        return numbers

    numbers = database.write(fill)
    database.close()
    for url in serve(
        home / "labels.db", home / "snapshots", free_port(), "--second-factor", "none"
    ):
        yield SimpleNamespace(url=url, people=numbers)


def _add_project(
    connection: Any, name: str, mode: Any, numbers: dict[str, int], now: float, num_prompts: int = 4
) -> projects.Project:
    """A project with a ranking and a demonstration task for each prompt, which everybody shares."""
    ada = numbers["ada"]
    settings = projects.Settings(
        overlap_fraction=1.0, overlap_n=3, gold_fraction=0.0, drift_fraction=0.0, undo_s=3600.0
    )
    project = projects.create(
        connection,
        f"Answers, {name}",
        seed=name,
        settings=settings,
        guideline="Helpful first, then truthful, then harmless.\n\nTies are welcome.",
        schema=LabelSchema(mode=mode),
        actor=ada,
        now=now,
    )
    texts = [PROMPTS[number % len(PROMPTS)] for number in range(num_prompts)]
    given = [Prompt(id=f"{name}-{number}", text=text) for number, text in enumerate(texts)]
    added = projects.add_prompts(connection, project.id, given, actor=ada, now=now)
    for name, number in added.items():
        outputs = [Completion(f"{name}-{i}", text) for i, text in enumerate(OUTPUTS)]
        made = projects.add_completions(connection, number, outputs)
        pools.add_ranking_task(connection, project, number, made)
        pools.add_demonstration_task(connection, project, number)
    return project


def _add_members(
    connection: Any,
    project: projects.Project,
    names: tuple[str, ...],
    numbers: dict[str, int],
    now: float,
) -> None:
    for name in names:
        people.join(connection, project.id, numbers[name], actor=numbers["ada"], now=now)


def _add_busy_project(connection: Any, numbers: dict[str, int], now: float) -> None:
    """Forty prompts ranked by seven labelers, a screening test, a flagged prompt, a question."""
    ada = numbers["ada"]
    project = _add_project(connection, "at work", "fast", numbers, now, num_prompts=40)
    _add_members(connection, project, AT_WORK, numbers, now)
    chance = random.Random(1)
    for turn in range(17):
        for name in AT_WORK:
            at = now - 7 * 86400 + turn * 36000
            work = tasks.claim(connection, project.id, numbers[name], "ranking", now=at)
            if work is not None:
                tasks.submit(
                    connection,
                    work.id,
                    numbers[name],
                    _opinion(work.outputs, chance),
                    key=work.id,
                    active_s=chance.uniform(60, 400),
                    now=at + 400,
                )
    for kind in ("plain", "few_shot", "user_based"):
        brief = "Somebody plans a journey." if kind == "user_based" else ""
        pools.add_prompt_task(connection, project, kind, brief=brief)
    work = tasks.claim(connection, project.id, numbers["ann"], "demonstration", now=now)
    assert work is not None
    threads.ask(connection, work.id, numbers["ann"], "How long may it be?", now=now)
    flagged = Prompt(id="flagged", text="Write to Mr Roe, 5 Mill Lane.")
    (number,) = projects.add_prompts(connection, project.id, [flagged], actor=ada, now=now).values()
    projects.quarantine(connection, number, "an address", actor=ada, now=now)
    for item in ITEMS:
        screening.add_item(connection, project.id, *item, actor=ada, now=now)
    _add_members(connection, project, ("leo", "liv"), numbers, now)
    answers = {"flags": {"Sensitive?": True}, "ranking": [1, 2]}
    for one in screening.questions(connection, project.id, numbers["leo"]):
        answer = answers.get(one.kind, "Some words of mine.")
        screening.answer(connection, one.id, numbers["leo"], answer, now=now)
    screening.finish(connection, project.id, numbers["leo"], now=now)


def _opinion(outputs: tuple[str, ...], chance: random.Random) -> RankingAnswer:
    """Longer is better, but for OUTPUTS[3], within the noise of a labeler; ratings go with it."""
    worth = [min(len(text), 250) / 100 * (text != OUTPUTS[3]) for text in outputs]
    seen = [round(2 * (one + chance.gauss(0, 0.35))) for one in worth]
    order = sorted(set(seen), reverse=True)
    ranks = tuple(1 + order.index(one) for one in seen)
    said = PromptLabels("open_qa" if ranks[0] < 3 else "chat", {"ambiguous": ranks[1] == 1})
    return RankingAnswer(ranks, tuple(Rating(8 - min(rank, 7), {}) for rank in ranks), said)


@pytest.fixture
def log_in() -> Callable[[Page, str, str], None]:
    """Logs somebody in by the form."""

    def enter(page: Page, url: str, name: str) -> None:
        page.goto(f"{url}/login")
        page.get_by_label("E-mail").fill(f"{name}@example.org")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(lambda address: not address.endswith("/login"))

    return enter


@pytest.fixture
def submit() -> Callable[..., None]:
    """Submits a task's form, and again if asked whether it is meant: tests are quick readers."""

    def send(page: Page, keys: str = "") -> None:
        for _ in range(2):
            before = page.url
            if keys:
                page.wait_for_load_state()  # the keys are those of the page's script
                page.keyboard.press(keys)
            else:
                page.get_by_role("button", name="Submit and next").click()
            page.wait_for_url(lambda address, before=before: address != before)
            if not page.get_by_text("Is this what you mean?").is_visible():
                break
        expect(page.get_by_text("Submitted.")).to_be_visible()

    return send


@pytest.fixture(scope="session")
def axe_source() -> str:
    """The program of axe-core, from npm's registry, which must be the one that we know."""
    folder = ROOT / "build" / f"axe-core-{AXE}"
    program = folder / "axe.min.js"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        packed = folder / f"axe-core-{AXE}.tgz"  # `make test` has fetched it before the tests begin
        if not packed.exists():
            fetch = ["npm", "pack", "--silent", "--pack-destination", str(folder)]
            run = [*fetch, f"axe-core@{AXE}"]
            subprocess.run(run, check=True, stdout=subprocess.DEVNULL, cwd=folder)
        with tarfile.open(packed) as archive:
            found = archive.extractfile("package/axe.min.js")
            assert found is not None
            program.write_bytes(found.read())
    content = program.read_bytes()
    assert hashlib.sha256(content).hexdigest() == AXE_SHA256, program
    return content.decode()


@pytest.fixture
def violations(axe_source: str) -> Callable[..., list[str]]:
    """Finds what breaks WCAG 2.2 AA on a page as it stands, by all rules or by some."""

    def check(page: Page, rules: list[str] | None = None) -> list[str]:
        # Evaluated by the debugger: a script in the page would be refused by its policy.
        if not page.evaluate("'axe' in window"):
            page.evaluate(axe_source)
        which = {"runOnly": rules or WCAG, "resultTypes": ["violations"]}
        found = page.evaluate("which => axe.run(document, which)", which)
        return [
            f"{page.url} {one['id']}: {node['html'][:200]} {node['failureSummary']}"
            for one in found["violations"]
            for node in one["nodes"]
        ]

    return check


@pytest.fixture
def picture() -> Callable[..., None]:
    """Keeps a picture of a page for the guide, if pictures are asked for."""
    folder = os.environ.get("HEEDFUL_SCREENSHOTS")

    def take(page: Page, name: str, colours: int = 64, **how: Any) -> None:
        if not folder:
            return
        from PIL import Image

        image = Image.open(io.BytesIO(page.screenshot(**how))).convert("RGB")
        Path(folder).mkdir(parents=True, exist_ok=True)
        # Rare colours, such as those of curves, are kept by the second way alone.
        way = Image.Quantize.MEDIANCUT if colours == 64 else Image.Quantize.MAXCOVERAGE
        few = image.quantize(colours, method=way, dither=Image.Dither.NONE)
        few.save(Path(folder) / f"{name}.png", optimize=True)

    return take
