"""Lists of checksums, such as SHA256SUMS, and the choice of a file's entry in one."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from tasks.transfer.digests import CRC32C, LENGTHS_BYTES, agree, algorithm_of, parse_checksum
from tasks.transfer.errors import BadOption

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

#: No list that a person would name for one file is longer.
MOST_BYTES = 1024 * 1024

_GNU = re.compile(r"([0-9a-fA-F]+)(?:[ \t]+\*?(\S.*))?", re.ASCII)
_BSD = re.compile(r"([A-Za-z0-9-]+) ?\((.+)\) ?= ?([0-9a-fA-F]+)", re.ASCII)
_ESCAPE = re.compile(r"\\([\\nr])")
_ESCAPED = {"\\": "\\", "n": "\n", "r": "\r"}
#: Eight digits in such a list are a CRC-32 of another polynomial (``.sfv``).
_BY_DIGITS = {2 * length: name for name, length in LENGTHS_BYTES.items() if name != CRC32C}


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str | None  #: None: the list has the digest alone
    algorithm: str
    digest: str


class ChecksumList:
    """A list of checksums, read once for any number of files.

    Lines are ``HEX  name`` or ``HEX *name`` (GNU coreutils), where the number of digits tells the algorithm, or
    ``SHA256 (name) = HEX`` (BSD, OpenSSL); after a backslash, with escapes in the name. Others, such as a signature's,
    are passed over. A list of one digest without a name is the file's.
    """

    def __init__(self, text: str, *, source: str) -> None:
        """Take the list, and what it is called in messages."""
        # Windows editors begin a text with a mark that would make the first line no entry.
        lines = text.removeprefix("\ufeff").splitlines()
        self._entries = [entry for line in lines if (entry := _parse(line.strip()))]
        self._by_name: dict[str, list[_Entry]] = {}
        for entry in self._entries:
            if entry.name:
                self._by_name.setdefault(_last(entry.name), []).append(entry)
        self._source = source

    def choose(self, names: Iterable[str]) -> dict[str, str]:
        """A file's digests, algorithm -> hexadecimal.

        Args:
            names: what the file may be called, with the folders that are known, the best name first.

        Raises:
            BadOption: there is no entry for the file, or there are several that contradict each other.
        """
        if len(self._entries) == 1 and self._entries[0].name is None:
            return {self._entries[0].algorithm: self._entries[0].digest}
        wanted = [name for name in names if _last(name)]
        for name in wanted:
            alike = self._by_name.get(_last(name), [])
            found = [each for each in alike if each.name and _ends_alike(name, each.name)] or alike
            if found:
                return _agreeing([(each.algorithm, each.digest) for each in found], name, self._source)
        shown = " or ".join(dict.fromkeys(repr(_last(name)) for name in wanted)) or "a URL without a name"
        raise BadOption(
            f"{self._source} has no checksum for {shown}, among {len(self._entries)} entries. Check that it is the "
            f"right list, or name the file as the list does with -o."
        )


def choose(text: str, names: Iterable[str], *, source: str) -> dict[str, str]:
    """One file's digests in a list of checksums; see `ChecksumList`."""
    return ChecksumList(text, source=source).choose(names)


def names_of(url: str, output: str | None) -> list[str]:
    """What a file may be called in a list: as in its URL, or as it is to be called."""
    path = unquote(urlsplit(url).path)
    return [path, *([output] if output is not None else [])]


def is_url(checksums: str | Path) -> bool:
    """Whether a list is named by its URL, and not by a file's path."""
    return "://" in str(checksums)


def read_list(path: Path) -> ChecksumList:
    """A list on this host; `BadOption` if it cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadOption(f"{path} cannot be read: {error.strerror or type(error).__name__}.") from None
    # PowerShell's redirection writes UTF-16.
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode("utf-16" if is_utf16 else "utf-8", errors="replace")
    return ChecksumList(text, source=str(path))


def given(sha256: str | None, *others: Mapping[str, str]) -> dict[str, str]:
    """Digests from all places where they may be given; `BadOption` if they make no sense, or not together."""
    pairs = [pair for digests in others for pair in digests.items()]
    if sha256 is not None:
        pairs.append(("sha-256", sha256))
    try:
        return agree(parse_checksum(f"{name}:{digits}") for name, digits in pairs)
    except ValueError as error:
        raise BadOption(f"That is {error}.") from None


def _parse(line: str) -> _Entry | None:
    # GNU coreutils: the name has a backslash or a line's end in it.
    is_escaped = line.startswith("\\")
    line = line.removeprefix("\\")
    if match := _BSD.fullmatch(line):
        algorithm, name, digits = algorithm_of(match[1]), match[2], match[3]
    elif match := _GNU.fullmatch(line):
        algorithm, name, digits = _BY_DIGITS.get(len(match[1])), match[2], match[1]
    else:
        return None
    if algorithm is None or len(digits) != 2 * LENGTHS_BYTES[algorithm]:
        return None
    if name and is_escaped:
        name = _ESCAPE.sub(lambda match: _ESCAPED[match[1]], name)
    return _Entry(name and name.removeprefix("./"), algorithm, digits.lower())


def _ends_alike(path: str, name: str) -> bool:
    return f"/{path}".endswith(f"/{name.lstrip('/')}")


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _agreeing(found: list[tuple[str, str]], name: str, source: str) -> dict[str, str]:
    try:
        return agree(found)
    except ValueError as error:
        raise BadOption(
            f"{source} has several entries for {_last(name)!r}: {error}. Give the right one with --checksum."
        ) from None
