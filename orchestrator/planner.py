"""Decisions of a plan: name, chunk size, layout. Pure: no network, no files, no clock."""

from __future__ import annotations

from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from pathvalidate import sanitize_filename

from tasks.transfer.errors import BadName, BadOption
from tasks.transfer.manifest import LayoutName, Validator

MIB = 1024 * 1024

#: What the probe asks for at most. A file up to this is whole with the probe's answer.
_PROBE_BYTES = MIB
#: A smaller chunk costs more for its task than it saves; where there are connections for all of them, a bit less.
_LEAST_CHUNK_BYTES = 8 * MIB
_LEAST_BYTES_A_CONNECTION = 4 * MIB
#: A larger chunk is not fetched faster, and more is fetched again when a worker dies.
_MOST_CHUNK_BYTES = 64 * MIB
#: Enough that many workers are done at about the same time.
_WANTED_CHUNKS = 64
#: Each chunk is a message of Redis and a task of 5 ms: beyond this the chunk size grows with the file.
MOST_CHUNKS = 1000

_MOST_NAME_BYTES = 255 - len(".download")


def check_output(output: str) -> None:
    """Make sure that a name the user gave stays inside the volume.

    Raises:
        BadName: it is absolute, climbs out, is empty, ends in a slash or cannot be a file's name.
    """
    path = PurePosixPath(output)
    if not output.isprintable():
        # Control characters would reach the terminal of everyone who lists jobs; surrogates are no text.
        raise BadName(
            f"{output.encode('unicode_escape').decode()[:80]} has characters that cannot be printed."
        )
    if path.is_absolute():
        raise BadName(f"{output!r} is absolute; give a name relative to the volume.")
    if ".." in path.parts:
        raise BadName(f"{output!r} climbs out of the volume.")
    too_long = any(len(part.encode()) > _MOST_NAME_BYTES for part in path.parts)
    if (
        not path.parts
        or output.endswith("/")
        or "\0" in output
        or too_long
        or path.parts[0] == ".orchestrator"
    ):
        raise BadName(f"{output[:80]!r} cannot be a file's name.")


def choose_name(output: str | None, offered_name: str | None, url: str) -> str:
    """The destination, relative to the volume: as asked, else the server's name, else the URL's.

    What a server or a URL says is cleaned to one file name that is neither hidden nor too long.
    """
    if output is not None:
        check_output(output)
        return str(PurePosixPath(output))
    from_url = PurePosixPath(unquote(urlsplit(url).path)).name
    for candidate in (offered_name, from_url):
        name = _clean(candidate or "")
        if name:
            return name
    return "download"


def _clean(name: str) -> str:
    last = name.replace("\\", "/").rpartition("/")[2]
    shown = "".join(char for char in last if char.isprintable())
    cleaned = str(sanitize_filename(shown, platform="universal", max_len=_MOST_NAME_BYTES)).lstrip(". ")
    while len(cleaned.encode()) > _MOST_NAME_BYTES:
        cleaned = cleaned[:-1]
    return cleaned


def probe_bytes(asked_chunk_bytes: int | None) -> int:
    """What the probe asks for: its answer is the beginning of the first chunk, and must not go beyond it."""
    return min(_PROBE_BYTES, asked_chunk_bytes or _PROBE_BYTES)


def choose_chunk_size_bytes(size_bytes: int | None, asked_bytes: int | None, *, connections: int) -> int:
    """The chunk size, so that there are at most `MOST_CHUNKS` chunks, and work for each of the connections.

    Raises:
        BadOption: what was asked for would make more.
    """
    size_bytes = size_bytes or 0
    least_bytes = _whole_mib(-(-size_bytes // MOST_CHUNKS))
    if asked_bytes is not None:
        if -(-size_bytes // asked_bytes) > MOST_CHUNKS:
            raise BadOption(
                f"A chunk size of {asked_bytes} bytes makes more than {MOST_CHUNKS} chunks of this file; "
                f"give at least --chunk-size {least_bytes // MIB}M."
            )
        return asked_bytes
    wanted_bytes = _whole_mib(-(-size_bytes // _WANTED_CHUNKS))
    if size_bytes <= _LEAST_CHUNK_BYTES:
        return _LEAST_CHUNK_BYTES  # the plan fetches it itself
    for_each_bytes = max(_whole_mib(-(-size_bytes // connections)), _LEAST_BYTES_A_CONNECTION)
    wanted_bytes = max(wanted_bytes, min(for_each_bytes, _LEAST_CHUNK_BYTES))
    return max(least_bytes, min(wanted_bytes, _MOST_CHUNK_BYTES))


def _whole_mib(count_bytes: int) -> int:
    # Chunk borders at whole MiB: filesystems clone whole blocks only.
    return max(-(-count_bytes // MIB), 1) * MIB


def choose_layout(asked: LayoutName, *, validator: Validator, chunks_count: int, clones: bool) -> LayoutName:
    """The layout of a plan.

    Raises:
        BadOption: a shared file was asked for and the origin has no strong validator: two attempts at one
            chunk could then write different bytes to one place.
    """
    if asked is LayoutName.SHARED:
        if not validator.is_strong:
            raise BadOption(
                "--layout shared needs an origin with a strong ETag, and this one has none; use --layout parts."
            )
        return LayoutName.SHARED
    if asked is LayoutName.PARTS or chunks_count <= 1 or clones or not validator.is_strong:
        return LayoutName.PARTS
    return LayoutName.SHARED


def needed_bytes(size_bytes: int | None, layout: LayoutName, *, chunks_count: int, clones: bool) -> int:
    """Free space that a job needs: parts that are joined by copying need the file's size twice."""
    if size_bytes is None:
        return 0
    return size_bytes * (2 if layout is LayoutName.PARTS and chunks_count > 1 and not clones else 1)
