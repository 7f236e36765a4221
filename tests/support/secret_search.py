"""Searching for secrets in all that a running cluster shows: in Redis, on volumes, in logs, in events, in processes."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import stat
import threading
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import redis

from support.tools import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

#: Data files are the download itself; what is stored beside them is smaller.
_MOST_BYTES = 256 * 1024


def forms(secret: str) -> set[bytes]:
    """What a secret of letters and digits may look like: plain, in base64 at any offset, in hex, as numbers.

    Percent-encoding, JSON and `repr` leave letters and digits as they are.
    """
    raw = secret.encode()
    found = {raw, raw.hex().encode(), raw.hex().upper().encode(), str(list(raw))[1:-1].encode()}
    for offset in range(3):
        coded = base64.b64encode(b"?" * offset + raw)
        # The first and last characters depend on what is beside.
        inner = coded[(0, 2, 3)[offset] : len(coded) - 4]
        found |= {inner, inner.translate(bytes.maketrans(b"+/", b"-_"))}
    return found


class Haystack:
    """All that was seen, by place."""

    def __init__(self) -> None:
        self._seen: dict[str, set[bytes]] = defaultdict(set)
        self._lock = threading.Lock()

    def add(self, place: str, what: bytes | str) -> None:
        data = what.encode("utf-8", "surrogateescape") if isinstance(what, str) else what
        with self._lock:
            self._seen[place].add(data)

    def places(self) -> set[str]:
        return {place for place, seen in self._seen.items() if any(seen)}

    def places_of(self, secret: str) -> set[str]:
        """Where a secret is, in any of its forms."""
        wanted = forms(secret)
        with self._lock:
            # Of one piece: there are a hundred thousand, most of them short. No form has a line's end in it.
            whole = {place: b"\n".join(seen) for place, seen in self._seen.items()}
        return {place for place, data in whole.items() if any(form in data for form in wanted)}

    def excerpt(self, secret: str, place: str) -> str:
        """What is around a secret, for the message of a test that failed."""
        for form in forms(secret):
            for data in self._seen[place]:
                at = data.find(form)
                if at >= 0:
                    return repr(data[max(at - 150, 0) : at + 100])
        return ""


def dump_redis(client: redis.Redis, haystack: Haystack) -> None:
    """Every key of every type in every database."""
    for number in range(16):
        client.execute_command("SELECT", number)
        for key in client.scan_iter():
            readers: dict[bytes, Callable[[bytes], object]] = {
                b"string": client.get,
                b"hash": client.hgetall,
                b"set": client.smembers,
                b"zset": lambda key: client.zrange(key, 0, -1),
                b"list": lambda key: client.lrange(key, 0, -1),
                b"none": lambda key: "",  # it expired meanwhile
            }
            with contextlib.suppress(redis.ResponseError):  # it became another type meanwhile
                haystack.add("redis", repr((key, readers[client.type(key)](key))))


@contextmanager
def monitored(address: int | str, password: str | None, haystack: Haystack) -> Iterator[None]:
    """Within, all that any client sends to a Redis, on a port or a Unix socket, is gathered."""
    if isinstance(address, int):
        connection = socket.create_connection(("127.0.0.1", address))
    else:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(address)
    if password:
        connection.sendall(f"AUTH {password}\r\n".encode())
        assert connection.recv(100) == b"+OK\r\n"
    connection.sendall(b"MONITOR\r\n")
    assert connection.recv(5) == b"+OK\r\n"

    def read() -> None:
        with contextlib.suppress(OSError), connection.makefile("rb") as lines:
            for line in lines:
                haystack.add("monitor", line)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        connection.close()


def look_at_folder(folder: Path, place: str, haystack: Haystack) -> set[tuple[str, int]]:
    """Names, extended attributes and contents of all that is in a folder; relative paths and modes."""
    modes = set()
    for top, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(top) / name
            with contextlib.suppress(FileNotFoundError):
                status = path.lstat()
                modes.add((str(path.relative_to(folder)), stat.S_IMODE(status.st_mode)))
                haystack.add(f"{place}: names", str(path))
                for attribute in os.listxattr(path, follow_symlinks=False):
                    value = os.getxattr(path, attribute, follow_symlinks=False)
                    haystack.add(f"{place}: xattrs", attribute.encode() + value)
                if stat.S_ISREG(status.st_mode) and status.st_size <= _MOST_BYTES:
                    haystack.add(f"{place}: files", path.read_bytes())
    return modes


def look_at_command_lines(haystack: Haystack) -> None:
    """The command lines of all processes of the machine."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            haystack.add("command lines", path.read_bytes())


@contextmanager
def looking(looks: Iterable[Callable[[], object]], *, every_seconds: float = 0.05) -> Iterator[None]:
    """Within, look again and again, and once more at the end."""
    looks, ended, failures = list(looks), threading.Event(), []
    rounds = [0]

    def run() -> None:
        try:
            while not ended.is_set():
                for look in looks:
                    look()
                rounds[0] += 1
                time.sleep(every_seconds)
        except Exception as error:  # noqa: BLE001  (raised again in the test's thread)
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
        before = rounds[0]
        wait_until(lambda: rounds[0] >= before + 2 or failures, what="a last look")
    finally:
        ended.set()
        thread.join(30)
    if failures:
        raise failures[0]
