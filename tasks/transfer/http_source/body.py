"""A response's body, held against the length that was promised for it."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from typing import TYPE_CHECKING, Any

import urllib3.exceptions
from urllib3.response import GzipDecoderState

from tasks.transfer.errors import BadResponse, OriginUnreachable, ResponseTruncated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    import requests

    from tasks.transfer.attempt import Attempt

#: The read size adapts between these: a large one costs fewer system calls, a small one loses less when
#: the connection breaks, for what a read had gathered by then is gone.
_LEAST_READ_BYTES = 4 * 1024
_FIRST_READ_BYTES = 16 * 1024
#: More costs memory for each connection and is not quicker: larger than a core's cache.
_MOST_READ_BYTES = 256 * 1024
_QUICK_READ_SECONDS = 0.05
_SLOW_READ_SECONDS = 0.5

_of_thread = threading.local()


class Body:
    """The bytes of one response; a context manager that gives the connection back or closes it."""

    def __init__(
        self,
        response: requests.Response,
        url: str,
        attempt: Attempt,
        *,
        length_bytes: int | None,
        is_cut: bool = False,
        decodes: bool = False,
    ) -> None:
        """Take a response whose head was checked.

        Args:
            response: the response.
            url: redacted, for messages.
            attempt: who reads it, and may be stopped.
            length_bytes: what has to come; None if the server did not say.
            is_cut: the server sends more than was asked for: the rest is left unread.
            decodes: undo the content coding.
        """
        self.length_bytes = length_bytes
        self._is_cut = is_cut
        self._decodes = decodes
        self._response = response
        self._url = url
        self._attempt = attempt

    def __enter__(self) -> Body:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._attempt.let_go()
        with contextlib.suppress(OSError, urllib3.exceptions.HTTPError):
            # Unread bytes would be taken for the next response's head: close unless it was read to its end.
            self._response.close()

    def hand_to(self, attempt: Attempt) -> None:
        """Let another attempt read it, which may be stopped by its own watcher."""
        self._attempt.hand_connection_to(attempt)
        self._attempt = attempt

    def blocks(self, *, clock: Callable[[], float] = time.monotonic) -> Iterator[bytes | memoryview]:
        """The body in order, in blocks of the read size.

        Each block is good until this thread reads another, of this body or of any: then its memory is written anew.

        Raises:
            ResponseTruncated: it ended before the promised length.
            BadResponse: it goes on after the promised length.
            OriginUnreachable: the connection broke, or brought nothing for the read timeout.
            AttemptStopped: the attempt was stopped from outside.
        """
        received_bytes = 0
        read_bytes = _FIRST_READ_BYTES
        read = self._reader()
        while self.length_bytes is None or received_bytes < self.length_bytes:
            wanted_bytes = read_bytes
            if self.length_bytes is not None:
                wanted_bytes = min(wanted_bytes, self.length_bytes - received_bytes)
            began_seconds = clock()
            pace = self._attempt.pace
            if pace is not None:
                wanted_bytes = pace.wait(wanted_bytes, self._attempt.hold)
            block = self._read(read, wanted_bytes, received_bytes)
            if pace is not None and len(block) < wanted_bytes:
                pace.put_back(wanted_bytes - len(block))
            if not block:
                break
            received_bytes += len(block)
            yield block
            read_bytes = _next_read_bytes(read_bytes, clock() - began_seconds)
        self._check_end(read, received_bytes)

    def _check_end(self, read: Callable[[int], bytes | memoryview], received_bytes: int) -> None:
        if self._decodes and not _is_decoded_to_end(self._response.raw):
            # Without a length it looks like a body that ended, and the file would be published without its end.
            raise OriginUnreachable(self._url, "the connection closed before the encoded body's end")
        if self.length_bytes is None or self._is_cut:
            return
        if received_bytes < self.length_bytes:
            raise ResponseTruncated(self._url, self.length_bytes, received_bytes)
        # Whoever gets the connection next must not be cut off with this attempt.
        self._attempt.let_go()
        if self._read(read, 1, received_bytes):
            raise BadResponse(self._url, f"the body goes on after the {self.length_bytes} bytes it promised")
        self._response.raw.release_conn()

    def _reader(self) -> Callable[[int], bytes | memoryview]:
        """What reads so many bytes: straight into one buffer of the thread, where nothing has to be undone.

        urllib3's own reads make a new object of each block, whose memory costs more than the copy into it.
        """
        head = self._response.raw._original_response  # noqa: SLF001  (requests goes there too, for cookies)
        if self._decodes or not isinstance(head, http.client.HTTPResponse) or head.chunked:
            return self._read_decoded
        buffer: memoryview | None = getattr(_of_thread, "buffer", None)
        if buffer is None:
            buffer = _of_thread.buffer = memoryview(bytearray(_MOST_READ_BYTES))

        def read(wanted_bytes: int) -> memoryview:
            return buffer[: head.readinto(buffer[:wanted_bytes])]

        return read

    def _read_decoded(self, wanted_bytes: int) -> bytes:
        # Without decoding, as a rule: a range counts the bytes as sent.
        data: bytes = self._response.raw.read(wanted_bytes, decode_content=self._decodes)
        return data

    def _read(
        self, read: Callable[[int], bytes | memoryview], wanted_bytes: int, received_bytes: int
    ) -> bytes | memoryview:
        self._attempt.check()
        try:
            data = read(wanted_bytes)
        except (TimeoutError, urllib3.exceptions.ReadTimeoutError):
            self._attempt.check()
            raise OriginUnreachable(self._url, "no byte came within the read timeout") from None
        except (http.client.IncompleteRead, urllib3.exceptions.IncompleteRead):
            self._attempt.check()
            raise ResponseTruncated(self._url, self.length_bytes or 0, received_bytes) from None
        except (
            urllib3.exceptions.HTTPError,
            http.client.HTTPException,
            OSError,
            ValueError,
            AttributeError,
        ) as error:
            # ValueError, AttributeError: what http.client raises when its socket is shut down under it.
            self._attempt.check()
            raise OriginUnreachable(self._url, f"the connection broke ({type(error).__name__})") from None
        # A read that was cut off by a stop returns short, like an end of the body; what it has is good.
        if not data:
            self._attempt.check()
        return data


def _is_decoded_to_end(raw: Any) -> bool:
    """Whether what was decoded had its end: gzip and zlib mark it, and urllib3 does not look."""
    decoder = getattr(raw, "_decoder", None)
    stream = getattr(decoder, "_obj", None)
    if stream is None or raw.tell() == 0:
        return True  # nothing was encoded: an empty body under the label of a coding
    is_followed_by_junk = getattr(decoder, "_state", None) == GzipDecoderState.SWALLOW_DATA
    return bool(stream.eof) or is_followed_by_junk


def _next_read_bytes(read_bytes: int, seconds: float) -> int:
    if seconds < _QUICK_READ_SECONDS:
        return min(read_bytes * 2, _MOST_READ_BYTES)
    if seconds > _SLOW_READ_SECONDS:
        return max(read_bytes // 2, _LEAST_READ_BYTES)
    return read_bytes
