"""No secret is anywhere but sealed: not in Redis, on the volume, in logs, events, Flower, or command lines."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
import redis

from support.cluster import COMMAND, Cluster, cluster
from support.events import gather_events
from support.files import MIB, sha256_of
from support.moving_origin import answer, moving_origin, reset, version
from support.password_proxy import password_proxy
from support.redis_server import redis_server
from support.secret_search import (
    Haystack,
    dump_redis,
    forms,
    look_at_command_lines,
    look_at_folder,
    looking,
    monitored,
)
from support.tools import end, free_port, is_listening, wait_until
from tasks.app import make_app
from tasks.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from http.server import BaseHTTPRequestHandler
    from pathlib import Path

    from support.moving_origin import MovingOrigin, Seen

pytestmark = pytest.mark.long

FILE = version(6 * MIB, seed=20, etag='"v1"')


def _new(what: str) -> str:
    # Letters and digits only: what any encoding of text leaves as it is.
    return f"{what}{secrets.token_hex(8)}"


@dataclass(frozen=True)
class Secrets:
    user: str
    userinfo: str
    header: str
    query: str
    amazon: str
    link: str
    cookie: str
    proxy: str
    wrong_proxy: str
    canary: str

    @classmethod
    def new(cls) -> Secrets:
        return cls(**{name: _new(name.replace("_", "")) for name in cls.__dataclass_fields__})

    def all(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "canary"}

    @property
    def query_text(self) -> str:
        return f"sig={self.query}%2F%2B&X-Amz-Signature={self.amazon}"

    def arguments(self, folder: Path, origin: MovingOrigin, proxy_port: int, path: str) -> list[str]:
        """A URL and options that have them all, none on the command line."""
        folder.mkdir(mode=0o700, exist_ok=True)
        base = origin.url.rpartition("/")[0].replace("http://", f"http://other:{quote(self.userinfo)}@")
        proxy_password = self.wrong_proxy if path == "/wrong-proxy" else self.proxy
        written = {
            "url": f"{base}{path}?{self.query_text}",
            "user": f"me:{self.user}+/=: ä",
            "headers": f"X-Token: Bearer {self.header}\nX-Other: 1\n",
            "proxy": f"http://via:{proxy_password}%2F@127.0.0.1:{proxy_port}",
            "cookies": f"# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t4102444800\tc\t{self.cookie}\n",
        }
        name = path.strip("/")
        for kind, text in written.items():
            (folder / f"{name}.{kind}").write_text(text)
        at = {kind: str(folder / f"{name}.{kind}") for kind in written}
        return [
            f"@{at['url']}", "--user", f"@{at['user']}", "-H", f"@{at['headers']}", "--proxy", f"@{at['proxy']}",
            "--cookies", at["cookies"], "-o", name, "--chunk-size", "1M", "--connections", "3",
        ]  # fmt: skip

    def came_with(self, seen: Seen) -> bool:
        """Whether a request brought all that it should: what is not sent cannot leak on the way."""
        basic = base64.b64encode(f"me:{self.user}+/=: ä".encode()).decode()
        return (
            seen.headers["Authorization"] == f"Basic {basic}"
            and seen.headers["X-Token"] == f"Bearer {self.header}"
            and seen.headers["Cookie"] == f"c={self.cookie}"
            and (self.query in seen.query or self.link in seen.query)
        )


def _broken(handler: BaseHTTPRequestHandler) -> int:
    handler.close_connection = True
    handler.wfile.write(
        b"HTTP/1.1 206 Partial Content\r\nthis is no header\r\nContent-Length: 5\r\n\r\nhello"
    )
    return 206


def _midway(handler: BaseHTTPRequestHandler) -> int:
    handler.wfile.write(b"HTTP/1.1 206 Partial Content\r\nContent-Len")
    return reset(handler)


class Stage:
    """An origin where each path ends otherwise, behind a proxy; all of it wants its secrets."""

    def __init__(self, own: Secrets, origin: MovingOrigin) -> None:
        self._secrets, self._origin = own, origin
        self._faults: list[str] = []
        self._cut: set[tuple[str, int]] = set()
        origin.on_request = self.on_request
        origin.link_query = f"&X-Amz-Signature={own.link}"

    def on_request(self, seen: Seen) -> Callable[[BaseHTTPRequestHandler], int] | None:
        if not self._secrets.came_with(seen):
            self._faults.append(f"{seen.path}: {seen.headers.items()}")
        link = self._secrets.link

        def redirect(location: str) -> Callable[[BaseHTTPRequestHandler], int]:
            return lambda handler: answer(handler, 302, ("Location", location))

        first_time = (seen.path, seen.first) not in self._cut
        self._cut.add((seen.path, seen.first))
        return {
            "/forbidden": lambda handler: answer(handler, 403),
            "/missing": lambda handler: answer(handler, 404),
            "/busy": lambda handler: answer(handler, 503),
            "/broken": _broken,
            "/loop": redirect(f"/loop?sig={link}"),
            "/nowhere": redirect(f"http://127.0.0.1:1/x?sig={link}"),
            "/nonsense": redirect(f"http://[{link}/x"),
            "/other-scheme": redirect(f"ftp://me:{link}@127.0.0.1/x"),
            # Each range once: the chunks are tried again, and the job completes.
            "/retried": (_midway if seen.first // MIB % 2 else lambda handler: answer(handler, 503))
            if first_time
            else None,
        }.get(seen.path)

    def assert_all_was_sent(self) -> None:
        assert self._faults == []


#: Path -> the exit code of a job of it.
OUTCOMES = {
    "/whole": 0, "/link": 0, "/retried": 0, "/forbidden": 3, "/missing": 3, "/busy": 3, "/broken": 3, "/loop": 3,
    "/nowhere": 3, "/nonsense": 3, "/other-scheme": 3, "/mismatch": 3, "/wrong-proxy": 3,
}  # fmt: skip


@pytest.fixture
def key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


@pytest.fixture
def guarded(tmp_path: Path, key: str) -> Iterator[Cluster]:
    """A cluster whose Redis has a password, with a worker that tells all it can, and a key of its own."""
    (tmp_path / "tmp").mkdir()
    with redis_server(tmp_path, password=_new("redis")) as server, cluster(server, tmp_path) as one:
        one.start_worker(
            "--loglevel", "DEBUG", ORCHESTRATOR_SECRET_KEY=key, TMPDIR=str(tmp_path / "tmp"),
            ORCHESTRATOR_BACKOFF_CAP_SECONDS="0.05", ORCHESTRATOR_FRUITLESS_ATTEMPTS="3",
        )  # fmt: skip
        yield one


@pytest.fixture
def flower(guarded: Cluster, key: str) -> Iterator[str]:
    port = free_port()
    with (guarded.logs / "flower.log").open("wb") as log:
        process = subprocess.Popen(
            [*COMMAND, "flower", "--port", str(port), "--", "--logging=debug"],
            env={**guarded.environment, "ORCHESTRATOR_SECRET_KEY": key, "FLOWER_UNAUTHENTICATED_API": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: is_listening(port), what="Flower listening")
        # It listens before it hears of what workers do.
        wait_until(lambda: _hears_events(port, guarded), what="Flower hearing of a task")
        yield f"http://127.0.0.1:{port}"
    finally:
        end(process)


def _hears_events(port: int, one: Cluster) -> bool:
    with one.orchestrator() as orchestrator:
        # A task that finds nothing to do.
        orchestrator._celery().send_task("tasks.remove_job", args=("000000000000",), ignore_result=True)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as response:
        return b"flower_events_total{" in response.read()


def _get(url: str, haystack: Haystack) -> bytes:
    with contextlib.suppress(urllib.error.HTTPError, TimeoutError):
        with urllib.request.urlopen(url, timeout=20) as response:
            data: bytes = response.read()
        haystack.add("flower", data)
        return data
    return b""


def _look_at_flower(url: str, haystack: Haystack, *, pages_of_tasks: bool) -> None:
    """Each page and each question of its interface."""
    for path in ("/", "/tasks", "/broker", "/metrics", "/api/task/types", "/api/queues/length"):
        _get(url + path, haystack)
    workers = json.loads(_get(f"{url}/api/workers?refresh=1", haystack) or b"{}")
    tasks = json.loads(_get(f"{url}/api/tasks?limit=1000", haystack) or b"{}")
    for worker in workers if pages_of_tasks else ():
        assert _get(f"{url}/worker/{worker}", haystack)
    for task in tasks if pages_of_tasks else ():
        assert _get(f"{url}/task/{task}", haystack)
        _get(f"{url}/api/task/info/{task}", haystack)
        _get(f"{url}/api/task/result/{task}?timeout=0.1", haystack)


def _plant(one: Cluster, canary: str, haystack: Haystack) -> Callable[[], object]:
    """Put the canary where a secret might be; what is found of it proves that the search finds. Returns its end."""
    app = make_app(Settings(redis_url=one.redis.url))
    # A task that nobody knows: in Redis, in the events, in Flower, and the worker says in its log what it got.
    app.send_task("canary", args=(f"http://h/x?sig={canary}",), queue="chunks")
    app.close()
    one.redis.client().set("canary", base64.b64encode(f"me:{canary}".encode()))
    folder = one.volume / canary
    folder.mkdir()
    (folder / "file").write_text(f"x={canary}")
    with contextlib.suppress(OSError):  # not every filesystem has them
        os.setxattr(folder / "file", "user.canary", canary.encode())
    process = subprocess.Popen([sys.executable, "-c", "input()", canary], stdin=subprocess.PIPE)
    done = one.run("status", canary)
    haystack.add("commands", done.stdout + done.stderr)

    def take_away() -> None:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(20)
        (folder / "file").unlink()
        folder.rmdir()

    return take_away


#: Where the canary has to be found.
PLACES = {
    "redis", "monitor", "events", "flower", "logs", "commands", "command lines", "volume: names", "volume: files",
}  # fmt: skip


def test_no_secret_is_seen_anywhere_whatever_becomes_of_a_job(guarded, flower, key, tmp_path):
    own, haystack = Secrets.new(), Haystack()
    client = redis.Redis(port=guarded.redis.port, password=guarded.redis.password)
    modes: set[tuple[str, int]] = set()
    looks = [
        lambda: modes.update(look_at_folder(guarded.volume, "volume", haystack)),
        lambda: look_at_folder(tmp_path / "tmp", "temporary", haystack),
    ]

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        done = guarded.run(*args, timeout=120, ORCHESTRATOR_SECRET_KEY=key)
        haystack.add("commands", done.stdout + done.stderr)
        return done

    with (
        moving_origin(FILE, bytes_per_second=8 * MIB) as origin,
        password_proxy("via", f"{own.proxy}/") as proxy_port,
        gather_events(guarded) as gathered,
        monitored(guarded.redis.port, guarded.redis.password, haystack),
        looking(looks),
        # A process runs for longer than that.
        looking([lambda: look_at_command_lines(haystack)], every_seconds=0.25),
        # What is there for a moment only is seen on its way there.
        looking([lambda: dump_redis(client, haystack)], every_seconds=1),
        # Each look has Flower ask all workers for all that they know.
        looking([lambda: _look_at_flower(flower, haystack, pages_of_tasks=False)], every_seconds=3),
    ):
        stage = Stage(own, origin)
        take_away = _plant(guarded, own.canary, haystack)

        def arguments(path: str) -> list[str]:
            return own.arguments(tmp_path / "given", origin, proxy_port, path)

        jobs = {}
        for path, code in OUTCOMES.items():
            extra = ["--sha256", "5" * 64] if path == "/mismatch" else []
            done = run("submit", *arguments(path), "--json", *extra)
            assert done.returncode == code, (path, done.stderr)
            jobs[path] = json.loads(done.stdout)["job_id"]
        _run_slow_one(origin, arguments("/slow"), run)
        for args in (["list"], ["list", "--json"], ["settings"], ["settings", "--json"]):
            assert run(*args).returncode == 0
        for path in ("/whole", "/nowhere", "/busy", "/wrong-proxy"):
            for args in (["status"], ["status", "--json"], ["wait"]):
                run(args[0], jobs[path], *args[1:])
        stage.assert_all_was_sent()
        take_away()
        _look_at_flower(flower, haystack, pages_of_tasks=True)
        haystack.add("events", repr(gathered.events))
    for path in guarded.logs.iterdir():
        haystack.add("logs", path.read_bytes())
    for path in tmp_path.glob("redis-*.log"):
        haystack.add("logs", path.read_bytes())
    assert haystack.places_of(own.canary) >= PLACES, "the search does not find what is there"
    _assert_unseen(haystack, {**own.all(), **_of_key(key), "redis": guarded.redis.password})
    _assert_private(modes)
    assert {sha256_of(guarded.volume / name) for name in ("whole", "link", "retried")} == {FILE.sha256}
    # It had much to say: debug lines of what sends the requests are what would have shown the query.
    assert "DEBUG" in guarded.log()


def _run_slow_one(origin: MovingOrigin, args: list[str], run) -> None:
    """A job that is seen, paused, resumed and cancelled midway."""
    # A minute: on a busy machine each of the commands takes some seconds.
    origin.bytes_per_second = MIB // 32
    job_id = run("submit", *args, "--detach").stdout.strip()
    assert re.fullmatch("[0-9a-f]{12}", job_id)
    wait_until(lambda: origin.served_count >= 3, what="the job's middle")
    assert run("status", job_id).returncode == 0
    assert run("wait", job_id, "--timeout", "0.5").returncode == 7
    for verb in ("pause", "resume", "cancel"):
        assert run(verb, job_id).returncode == 0
    assert run("wait", job_id).returncode == 6


def _of_key(key: str) -> dict[str, str]:
    """A key as it was given, and as the library of the sealing wants it."""
    return {"key": key, "key of letters": key.translate(str.maketrans("+/", "-_"))}


def _assert_unseen(haystack: Haystack, hidden: dict[str, str]) -> None:
    seen = {
        f"{name} in {place}: {haystack.excerpt(secret, place)}"
        for name, secret in hidden.items()
        for place in haystack.places_of(secret)
    }
    assert seen == set()


def _assert_private(modes: set[tuple[str, int]]) -> None:
    """Folders of jobs are the user's alone, and so is each file in them but the download itself."""
    own = {(path, mode) for path, mode in modes if path.startswith(".orchestrator")}
    assert {
        mode
        for path, mode in own
        if re.fullmatch(r"\.orchestrator(/reserved|/[0-9a-f]{12}(/plan-\w+)?)?", path)
    } == {0o700}
    stored = {(path, mode) for path, mode in own if re.search(r"manifest|receipt|checkpoint|reserved/", path)}
    assert {mode for _, mode in stored} == {0o600}


def test_no_secret_is_seen_anywhere_in_the_embedded_mode(home):
    own, haystack = Secrets.new(), Haystack()
    modes: set[tuple[str, int]] = set()
    looks = [
        lambda: look_at_command_lines(haystack),
        lambda: modes.update(look_at_folder(home.volume, "volume", haystack)),
        lambda: look_at_folder(home.tmp, "temporary", haystack),
        lambda: look_at_folder(home.runtime, "runtime", haystack),
    ]
    with (
        moving_origin(FILE, bytes_per_second=MIB) as origin,
        password_proxy("via", f"{own.proxy}/") as proxy_port,
        looking(looks),
    ):
        stage = Stage(own, origin)
        args = own.arguments(home.folder / "given", origin, proxy_port, "/link")
        running = home.start("submit", *args)
        wait_until(lambda: list(home.tmp.glob("*/redis.sock")), what="the private Redis")
        (path,) = home.tmp.glob("*/redis.sock")
        wait_until(lambda: origin.served_count, what="the download's begin")
        stack = home.stack()
        assert stack is not None
        key = stack.environ()["ORCHESTRATOR_SECRET_KEY"]
        with monitored(str(path), None, haystack):
            client = redis.Redis(unix_socket_path=str(path))
            client.set("canary", own.canary)
            dump_redis(client, haystack)
            client.close()
            (home.tmp / "canary").write_text(own.canary)
            assert running.ended() == 0, running.stderr
        stage.assert_all_was_sent()
        haystack.add("commands", running.stdout + running.stderr)
    assert sha256_of(home.volume / "link") == FILE.sha256
    assert haystack.places_of(own.canary) == {"redis", "monitor", "temporary: files"}
    assert {"volume: files", "command lines", "commands"} <= haystack.places()
    _assert_unseen(haystack, {**own.all(), **_of_key(key)})
    _assert_private(modes)
    (home.tmp / "canary").unlink()
    assert home.left() == []


def test_a_secret_on_the_command_line_can_be_avoided_from_standard_input(guarded, key, tmp_path):
    own, haystack = Secrets.new(), Haystack()
    with moving_origin(FILE) as origin, looking([lambda: look_at_command_lines(haystack)]):
        for args, text in (
            (["-"], f"{origin.url}?sig={own.query}\n"),
            ([origin.url, "-H", "@-"], f"X-Token: {own.header}\r\n\r\nX-Other: 1\r\n"),
            ([origin.url, "--user", "@-"], f"me:{own.user}\n"),
        ):
            done = subprocess.run(
                [*COMMAND, "submit", *args, "--overwrite", "-o", "file"],
                env={**guarded.environment, "ORCHESTRATOR_SECRET_KEY": key},
                input=text, text=True, capture_output=True, timeout=60, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            haystack.add("commands", done.stdout + done.stderr)
            assert sha256_of(guarded.volume / "file") == FILE.sha256
        assert any(own.query in seen.query for seen in origin.log)
        assert any(
            seen.headers["X-Token"] == own.header and seen.headers["X-Other"] == "1" for seen in origin.log
        )
        basic = "Basic " + base64.b64encode(f"me:{own.user}".encode()).decode()
        assert any(seen.headers["Authorization"] == basic for seen in origin.log)
    _assert_unseen(haystack, own.all())


@pytest.mark.parametrize("option", ["-H", "--user", "--proxy"])
@pytest.mark.parametrize("content", [None, "", b"\xff\xfe"], ids=["missing", "empty", "binary"])
def test_a_file_of_a_secret_that_cannot_be_read_is_told(option, content, home):
    path = home.folder / "given"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    done = home.run("submit", "http://127.0.0.1:1/x", option, f"@{path}")
    assert done.returncode == 2
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr
    assert home.left() == []


def test_the_search_finds_each_form():
    secret = _new("form")
    wrapped = f"me:{secret}+/ä"
    for text in (
        wrapped, quote(wrapped, safe=""), json.dumps(wrapped), repr(wrapped.encode()), wrapped.encode().hex(),
        *(base64.b64encode(b"x" * count + wrapped.encode()).decode() for count in range(4)),
        base64.urlsafe_b64encode(f"??>{wrapped}".encode()).decode(), str(list(wrapped.encode())),
    ):  # fmt: skip
        assert any(form in text.encode() for form in forms(secret)), text
    assert not any(form in _new("form").encode() for form in forms(secret))
