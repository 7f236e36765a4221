"""A server on a raw socket: the test writes its bytes, and reads what it was asked."""

from __future__ import annotations

import contextlib
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Request:
    """One request on one connection."""

    def __init__(self, connection: socket.socket, head: bytes) -> None:
        self.connection = connection
        self.head = head.decode("latin-1")

    @property
    def path(self) -> str:
        return self.head.split(" ", 2)[1]

    def header(self, name: str) -> str | None:
        for line in self.head.split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name.lower():
                return value.strip()
        return None

    @property
    def range(self) -> tuple[int, int] | None:
        """The inclusive ends asked for; the last one may be past the file's end."""
        value = self.header("Range")
        if value is None:
            return None
        first, _, last = value.removeprefix("bytes=").partition("-")
        return int(first), int(last)

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)


class ScriptedServer:
    """Answers connections one by one with its script; the last answer is repeated."""

    def __init__(self, answers: tuple[bytes | Callable[[Request], None], ...]) -> None:
        self._answers = answers
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []
        self.requests: list[Request] = []
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/file.bin"
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                head = b""
                while b"\r\n\r\n" not in head:
                    data = connection.recv(65536)
                    if not data:
                        return
                    head += data
                request = Request(connection, head)
                with self._lock:
                    answer = self._answers[min(len(self.requests), len(self._answers) - 1)]
                    self.requests.append(request)
                if isinstance(answer, bytes):
                    request.send(answer)
                else:
                    answer(request)
            except OSError:
                return  # the client went away

    def close(self) -> None:
        self._ended.set()
        # Shut down first: close() wakes no thread that is blocked in accept() or recv(). When the process is stopped
        # and goes on, the kernel has it call again, and by then the number may be that of another server's socket.
        for each in (self._socket, *self._connections):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        for each in (self._socket, *self._connections):
            each.close()


@contextmanager
def scripted_server(*answers: bytes | Callable[[Request], None]) -> Iterator[ScriptedServer]:
    """A server on loopback: the first connection gets the first answer, and so on."""
    server = ScriptedServer(answers)
    try:
        yield server
    finally:
        server.close()


def file_answer(content: bytes, *, headers: str = 'ETag: "v1"\r\n') -> Callable[[Request], None]:
    """A server that honours ranges of `content`, one request a connection."""

    def answer(request: Request) -> None:
        if request.range is None:
            request.send(
                f"HTTP/1.1 200 OK\r\n{headers}Content-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode()
                + content
            )
            return
        first, last = request.range
        last = min(last, len(content) - 1)
        body = content[first : last + 1]
        request.send(
            f"HTTP/1.1 206 Partial Content\r\n{headers}Content-Range: bytes {first}-{last}/{len(content)}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
            + body
        )

    return answer
