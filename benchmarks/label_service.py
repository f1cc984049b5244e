"""The labeling service as the benchmarks use it: a store with work in it, the server, a labeler.

The server is ``heed label serve`` in a process of its own. Labelers have sessions that are put into
the store: what passwords cost is not measured. Forms are filled in as a browser fills them in.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx

from heedful.records import Completion, Prompt
from heedful.store import people, pools, projects, sessions
from heedful.store.answers import LabelSchema
from heedful.store.database import Database, open_database

NUM_OUTPUTS = 4
OUTPUT = "An output of some length, as models write them. " * 20  # about 1 kB
NOTE = "A note with a reason, as careful labelers write them. " * 24  # about 1.3 kB
START_S = 180.0
DAY_S = 86400.0
# The server closes what was idle for five seconds: nothing is to be sent at that very moment.
KEEPALIVE_S = 3.0
# Below those that Linux gives to connections, which come and go while the server starts.
PORTS = range(20_000, 32_000)


@dataclass(frozen=True, slots=True)
class Person:
    """A labeler with a session: the cookie's token, and the token of forms."""

    project: int
    cookie: str
    token: str


def furnish(database: Database, num_labelers: int, num_tasks: int, target: int) -> list[Person]:
    """The labelers of a new project with ranking tasks that ``target`` of them are to do."""
    now = time.time()

    def project(connection: Any) -> projects.Project:
        admin = people.add_user(connection, "a@x", "A", "admin", None, actor=None, now=now).id
        settings = projects.Settings(
            overlap_fraction=1.0, overlap_n=target, gold_fraction=0, drift_fraction=0
        )
        return projects.create(
            connection,
            "load",
            seed="load",
            settings=settings,
            schema=LabelSchema(mode="fast"),
            actor=admin,
            now=now,
        )

    made = database.write(project)
    found: list[Person] = []
    for start in range(0, num_labelers, 200):
        many = range(start, min(start + 200, num_labelers))
        found += database.write(lambda c, many=many: [_add_person(c, made.id, n) for n in many])
    for start in range(0, num_tasks, 200):
        some = range(start, min(start + 200, num_tasks))
        database.write(lambda c, some=some: [_add_task(c, made, n) for n in some])
    return found


def _add_person(connection: Any, project: int, number: int) -> Person:
    now, cookie, token = time.time(), secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    name = f"l{number}@x"
    account = people.add_user(connection, name, "L", "labeler", None, actor=None, now=now)
    people.join(connection, project, account.id, actor=None, now=now)
    sessions.start(
        connection,
        account.id,
        token_sha256=sha256(cookie.encode()).hexdigest(),
        csrf_token=token,
        expires_at=now + DAY_S,
        now=now,
    )
    return Person(project, cookie, token)


def _add_task(connection: Any, project: projects.Project, number: int) -> None:
    prompt = Prompt(id=f"p{number}", text=f"Prompt {number}. " + OUTPUT)
    numbers = projects.add_prompts(connection, project.id, [prompt], actor=1, now=time.time())
    outputs = [Completion(str(n), f"{n}: {OUTPUT}") for n in range(NUM_OUTPUTS)]
    made = projects.add_completions(connection, numbers[prompt.id], outputs)
    pools.add_ranking_task(connection, project, numbers[prompt.id], made)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    while True:
        port = secrets.choice(PORTS)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


class Server:
    """``heed label serve`` on a port of its own, which stays the same when it is started anew."""

    def __init__(self, address: str, folder: Path):
        self.address, self.folder = address, folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        program = "import sys; from heedful.cli import main; sys.exit(main())"
        words = ["label", "serve", "--database", self.address, "--port", str(self.port)]
        words += ["--snapshots", str(self.folder / "snapshots")]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", program, *words], stdout=log, stderr=log
            )
        end = time.monotonic() + START_S
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}/health").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        self.end(signal.SIGKILL)
        said = (self.folder / "server.log").read_text(encoding="utf-8")[-2000:]
        raise RuntimeError(f"the service did not start within {START_S:.0f} s: {said}")

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Ends the server, by SIGKILL as if the power went; waits until it is gone."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait()
            self.process = None

    def memory_mib(self) -> float:
        """The most memory that the server has had so far (VmHWM)."""
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(re.findall(r"VmHWM:\s+(\d+) kB", text)[0]) / 1024

    def cpu_s(self) -> float:
        """The processor time that the server has used so far."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def opened(address: str) -> Iterator[Database]:
    """The store, while no server has it."""
    database = open_database(address, now=time.time())
    try:
        yield database
    finally:
        database.close()


class Desk:
    """One labeler's browser: it holds the form of a task, and sends parts of it."""

    def __init__(self, person: Person, client: httpx.AsyncClient):
        self.person, self.client = person, client
        self.headers = {"Cookie": f"heedful={person.cookie}", "Sec-Fetch-Site": "same-origin"}
        self.task = ""  # the address of the task, "" while there is none
        self.form: dict[str, str] = {}

    async def claim(self) -> httpx.Response:
        """Takes the next task; the answer leads to its page."""
        path = f"/projects/{self.person.project}"
        form = {"token": self.person.token, "kind": "ranking"}
        response = await self.client.post(f"{path}/next", data=form, headers=self.headers)
        self._go_to(response)
        return response

    async def load(self) -> httpx.Response:
        """Loads the page of the task, and takes over the hidden fields of its form."""
        response = await self.client.get(self.task, headers=self.headers)
        if response.status_code in (200, 409, 422):
            self._read(response)
        return response

    def fill(self, note: str) -> None:
        """Ranks the outputs (with a tie), and writes a note."""
        self.form |= {f"ranks.{n}": str(max(1, n)) for n in range(NUM_OUTPUTS)}
        self.form["notes"] = note

    async def save(self) -> httpx.Response:
        """Keeps the form as a draft, as the page's script does."""
        hidden = ("token", "key", "revision")
        fields = {name: value for name, value in self.form.items() if name not in hidden}
        body = {"fields": fields, "revision": int(self.form["revision"])}
        response = await self._send("PUT", "draft", body)
        if response.status_code in (200, 409):
            self.form["revision"] = str(response.json()["revision"])
        return response

    async def beat(self) -> httpx.Response:
        """Says that somebody is at work."""
        return await self._send("POST", "heartbeat", {})

    async def submit(self) -> httpx.Response:
        """Sends the answer; where it is kept, the next task is on its way."""
        response = await self.client.post(
            f"{self.task}/submit", data=self.form, headers=self.headers
        )
        if response.status_code == 303:
            self._go_to(response)
        elif response.status_code == 409:
            self._read(response)  # both versions: the same answer is sent again
        return response

    async def _send(self, method: str, what: str, body: Any) -> httpx.Response:
        headers = {**self.headers, "X-Form-Token": self.person.token, "Accept": "application/json"}
        return await self.client.request(method, f"{self.task}/{what}", json=body, headers=headers)

    def _go_to(self, response: httpx.Response) -> None:
        found = re.match(r"/work/\w+", response.headers.get("location", ""))
        self.task = found[0] if found else ""

    def _read(self, response: httpx.Response) -> None:
        hidden = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', response.text)
        mine = {name: value for name, value in hidden if name in ("key", "revision")}
        self.form = {**self.form, **mine, "token": self.person.token}


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Milliseconds that 50, 95 and 99 of a hundred stayed under, and the slowest."""
    ordered = sorted(seconds)
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    last = len(ordered) - 1
    return {
        f"{name}_ms": round(1000 * ordered[min(int(share * len(ordered)), last)], 1)
        for name, share in shares.items()
    }
