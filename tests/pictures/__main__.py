"""Makes docs/pictures: the terminal and Flower, as they are while a cluster of three workers brings one file."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyte
from rich.console import Console
from rich.text import Text

from support.browser import chromium
from support.cluster import COMMAND, Cluster, cluster
from support.files import MIB
from support.origin import origin
from support.redis_server import redis_server
from support.tools import end, free_port, is_listening, wait_until
from tasks.jobs import JobState

if TYPE_CHECKING:
    from collections.abc import Iterator

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
COLUMNS, LINES = 148, 14
SIZE_BYTES = 96 * MIB
BYTES_PER_SECOND = 0.8 * MIB  # of each connection: long enough to look at
NAMES = ("node-1", "node-2", "node-3")


class Terminal:
    """What a person has seen of some commands, one after the other."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self._environment, self._folder = environment, folder
        self._screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self._screen)

    def start(self, *args: str) -> tuple[subprocess.Popen[bytes], int]:
        """Show the command as it is typed, and start it on a terminal of its own."""
        if self._screen.cursor.x:
            self._stream.feed(b"\r\n")  # a bar is being drawn there
        self._stream.feed(b"$ orchestrator " + " ".join(args).encode() + b"\r\n")
        ours, theirs = pty.openpty()
        environment = {**self._environment, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
        process = subprocess.Popen(
            [*COMMAND, *args], stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=self._folder
        )
        os.close(theirs)
        return process, ours

    def watch(self, ours: int, *, seconds: float) -> None:
        """Show what comes meanwhile."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            if not select.select([ours], [], [], left)[0]:
                return
            try:
                self._stream.feed(os.read(ours, 65536))
            except OSError:
                return  # the command has ended

    def save(self, path: Path, title: str) -> None:
        """Draw the screen as it is now."""
        with Path(os.devnull).open("w") as nowhere:
            console = Console(width=COLUMNS, record=True, file=nowhere, force_terminal=True)
            for number in range(LINES):
                console.print(self._line(number), no_wrap=True, crop=True)
            path.write_text(console.export_svg(title=title, unique_id="terminal"))

    def _line(self, number: int) -> Text:
        line = Text()
        for column in range(COLUMNS):
            cell = self._screen.buffer[number][column]
            colour = cell.fg if cell.fg != "default" else None
            if colour and len(colour) == 6:
                colour = f"#{colour}"
            colour = {"brown": "yellow"}.get(colour or "", colour)
            line.append(cell.data, style=f"{'bold ' if cell.bold else ''}{colour or ''}".strip() or None)
        return line


@contextmanager
def _flower(one: Cluster) -> Iterator[str]:
    port = free_port()
    with (one.logs / "flower.log").open("wb") as log:
        process = subprocess.Popen(
            [*COMMAND, "flower", "--port", str(port)], env=one.environment, stdout=log, stderr=log
        )
    try:
        wait_until(lambda: is_listening(port), what="Flower listening")
        yield f"http://127.0.0.1:{port}"
    finally:
        end(process)


def main() -> None:
    """Make all pictures anew."""
    PICTURES.mkdir(exist_ok=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mh-pictures-")))
        one = stack.enter_context(cluster(stack.enter_context(redis_server(folder)), folder))
        flower = stack.enter_context(_flower(one))
        for name in NAMES:
            one.start_worker("--concurrency", "8", "--processes", "1", ORCHESTRATOR_HOST_NAME=name)
        served = stack.enter_context(origin(os.urandom(MIB) * (SIZE_BYTES // MIB)))
        served.bytes_per_second = BYTES_PER_SECOND
        browser = stack.enter_context(chromium(folder, window="1400,900"))
        terminal = Terminal(one.environment, one.logs)
        process, ours = terminal.start("submit", f"{served.url.rpartition('/')[0]}/big.iso")
        terminal.watch(ours, seconds=5)
        browser.get(f"{flower}/tasks?sort=state")
        wait_until(lambda: "fetch_chunk" in browser.page_source, what="tasks in Flower")
        browser.save_screenshot(str(PICTURES / "flower.png"))
        with one.orchestrator() as orchestrator:
            (record,) = orchestrator.list()
            assert record.state is JobState.FETCHING, record
        second, theirs = terminal.start("status", record.job_id)
        terminal.watch(theirs, seconds=20)
        second.wait(20)
        terminal.save(PICTURES / "terminal.svg", "Manyhands")
        end(process)
    sys.stdout.write("\n".join(str(path) for path in sorted(PICTURES.iterdir())) + "\n")


if __name__ == "__main__":
    assert shutil.which("chromium"), "chromium is needed"
    main()
