"""The least that Python can do: eight threads, one range each, from the socket to the file; run as a script.

    python floor.py URL FILE [CA_FILE]

No checks, no retries, no record: what this program takes more is the price of those. It knows only what it
needs to talk to the benchmark's own origins.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from urllib.parse import urlsplit

_THREADS = 8
_READ_BYTES = 256 * 1024


def _connect(host: str, port: int, ca_file: str | None) -> socket.socket:
    plain = socket.create_connection((host, port))
    if ca_file is None:
        return plain
    import ssl

    return ssl.create_default_context(cafile=ca_file).wrap_socket(plain, server_hostname=host)


def _ask(connection: socket.socket, head: str, buffer: memoryview) -> tuple[dict[bytes, bytes], int, int]:
    """Send a request; returns the headers, and which part of the buffer has the beginning of the body."""
    connection.sendall(head.encode())
    count = 0
    while b"\r\n\r\n" not in (got := bytes(buffer[:count])):
        read_count = connection.recv_into(buffer[count:])
        if not read_count:
            raise SystemExit("the origin closed the connection")
        count += read_count
    lines, _, _ = got.partition(b"\r\n\r\n")
    status, *fields = lines.split(b"\r\n")
    if status.split()[1] not in (b"200", b"206"):
        raise SystemExit(f"the origin answered {status!r}")
    pairs = (field.split(b":", 1) for field in fields)
    return {name.lower(): value.strip() for name, value in pairs}, len(lines) + 4, count


def _fetch(connection: socket.socket, head: str, file: int, start: int, stop: int, *, fills: bool) -> None:
    buffer = memoryview(bytearray(_READ_BYTES))
    _, begin, end = _ask(connection, head, buffer)
    start += os.pwrite(file, buffer[begin:end], start)
    while start < stop:
        count = connection.recv_into(buffer)
        # A read of TLS ends with its record, 16 KiB: a write for each would cost more than it has to.
        while fills and 0 < count < _READ_BYTES and start + count < stop:
            read_count = connection.recv_into(buffer[count:])
            if not read_count:
                break
            count += read_count
        if not count:
            break
        start += os.pwrite(file, buffer[:count], start)


def main(url: str, path: str, ca_file: str | None = None) -> int:
    """Download; the exit code is 0 if no thread failed."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if ca_file else 80)
    rest = f"{parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
    with _connect(host, port, ca_file) as connection:
        scratch = memoryview(bytearray(_READ_BYTES))
        headers, _, _ = _ask(connection, f"HEAD {rest}Connection: close\r\n\r\n", scratch)
    size_bytes = int(headers[b"content-length"])
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    done: list[int] = []

    def work(number: int) -> None:
        start, stop = (size_bytes * edge // _THREADS for edge in (number, number + 1))
        if start < stop:
            head = f"GET {rest}Range: bytes={start}-{stop - 1}\r\n\r\n"
            with _connect(host, port, ca_file) as connection:
                _fetch(connection, head, file, start, stop, fills=ca_file is not None)
        done.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(file)
    return 0 if len(done) == _THREADS else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
