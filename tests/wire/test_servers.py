"""What servers do, and what becomes of it: each behaviour through Redis and a real worker.

RIGHT: the file, byte for byte. An error's name: the job fails with it, and nothing is published. EITHER: one or the
other. In no case are there wrong bytes, and none outlasts its deadline.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import itertools
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator import Access, JobEndedBadly, StillRunning
from support.behaviours import (
    CONTENT,
    DATE,
    LATER,
    MIB,
    OTHER,
    Handler,
    by_path,
    head,
    in_turn,
    plain,
    raw,
    redirect,
    serve,
    slowly,
    when,
)
from support.cluster import Cluster, cluster
from support.files import wait_until_clean
from support.scripted import scripted_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.redis_server import RedisServer
    from support.scripted import Request

RIGHT = "right file"
EITHER = "either, never wrong bytes"
SMALL = b"hello, many hands\n"
JUNK = b"\x00\xff" * 5000
#: A job that takes longer than this hangs: all timeouts of the worker are a second or less.
DEADLINE_SECONDS = 40


@dataclass
class Case:
    name: str
    source: str  #: the RFC's section, or the program that is known to get it wrong
    handler: Handler
    outcome: str | tuple[str, ...] = RIGHT
    content: bytes = CONTENT
    options: dict[str, Any] = field(default_factory=dict)
    access: dict[str, Any] = field(default_factory=dict)


def no_ranges(content: bytes = CONTENT, **faults: Any) -> Handler:
    return serve(content, ranges=False, **faults)


def odd(request: Request) -> bool:
    """Every other connection, by its port of the client: requests meet one of two back ends."""
    return next(_counter) % 2 == 1


_counter = itertools.count()
BUSY = "NoProgress"
UNTRUSTED = ("BadResponse", "NoProgress", "SourceChanged")
gz = gzip.compress(CONTENT, 1)

GOOD = [
    Case("ranges, strong tag and date", "RFC 9110 14", serve()),
    Case("ranges without a tag", "RFC 9110 8.8.2", serve(etag=None)),
    Case("ranges without a date", "RFC 9110 8.8.3", serve(date=None)),
    Case("ranges without any validator", "RFC 9110 8.8", serve(etag=None, date=None)),
    Case("ranges with a weak tag", "RFC 9110 8.8.1", serve(etag='W/"v1"')),
    Case("ranges with a weak tag alone", "RFC 9110 8.8.1", serve(etag='W/"v1"', date=None)),
    Case("a tag without quotes", "seen on S3 clones", serve(etag="v1")),
    Case("no Accept-Ranges, ranges honoured", "RFC 9110 14.3", serve(extra=("Vary: *",))),
    Case("Accept-Ranges: none, ranges honoured", "RFC 9110 14.3", serve(extra=("Accept-Ranges: none",))),
    Case("an empty file by 416", "nginx", serve(b""), content=b""),
    Case("an empty file by 200", "Apache", no_ranges(b""), content=b""),
    Case("a file of one byte", "off by one", serve(b"x"), content=b"x"),
    Case("a file of the probe's size", "off by one", serve(CONTENT[:MIB]), content=CONTENT[:MIB]),
    Case("a file of the probe's size and one", "off by one", serve(CONTENT[: MIB + 1]), content=CONTENT[: MIB + 1]),
    Case("a file of the probe's size less one", "off by one", serve(CONTENT[: MIB - 1]), content=CONTENT[: MIB - 1]),
    Case("206 in transfer chunks", "RFC 9112 7.1", serve(chunked=True)),
    Case("206 without a length, closed at its end", "RFC 9112 6.3", serve(length=lambda _: None)),
    Case("a header unit in capitals", "RFC 9110 14.1", serve(content_range=lambda a, b, n: f"BYTES {a}-{b}/{n}")),
    Case("Content-Range with spaces", "lenient", serve(content_range=lambda a, b, n: f" bytes  {a}-{b}/{n} ")),
    Case("two equal Content-Lengths in one", "RFC 9110 8.6", serve(length=lambda n: f"{n}, {n}")),
    Case("a charset on the type", "noise", serve(extra=("Content-Type: text/plain; charset=utf-8",))),
    Case("Content-Encoding: identity", "obsolete", serve(extra=("Content-Encoding: identity",))),
    Case("ranges of 300 kB at most", "aria2#1505; RFC 9110 15.3.7", serve(at_most=300_000)),
    Case("ranges of 64 KiB at most", "aria2#1606", serve(at_most=65_536)),
    Case("more than was asked, from the right start", "lenient: the rest is not read",
         serve(slice_of=lambda first, last: (first, min(last + 5000, len(CONTENT) - 1)))),
    Case("ranges to the file's end, whatever was asked", "lenient",
         serve(slice_of=lambda first, last: (first, len(CONTENT) - 1))),
    Case("100 Continue before the answer", "RFC 9110 15.2.1",
         lambda r: (r.send(b"HTTP/1.1 100 Continue\r\n\r\n"), serve()(r))),
    Case("103 Early Hints before the answer", "RFC 8297: http.client takes it for the answer",
         lambda r: (r.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"), serve()(r))),
    Case("a reason phrase of nothing", "RFC 9112 4", no_ranges(), RIGHT),
]  # fmt: skip

NO_RANGES = [
    Case("200 to a range", "RFC 9110 14.2", no_ranges()),
    Case("200 to a range, small", "RFC 9110 14.2", no_ranges(SMALL), content=SMALL),
    Case("200 without a length", "RFC 9112 6.3", no_ranges(length=lambda _: None)),
    Case("200 in transfer chunks", "RFC 9112 7.1", no_ranges(chunked=True)),
    Case("HTTP/1.0 without a length", "RFC 1945 7.2.2", raw(b"HTTP/1.0 200 OK\r\n\r\n" + CONTENT)),
    Case("HTTP/1.0 with a length", "RFC 1945",
         raw(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(CONTENT) + CONTENT)),
    Case("206 of unknown size", "RFC 9110 14.4", when(lambda r: r.range is not None, serve(total="*"), no_ranges())),
    Case("206 to the probe without Content-Range", "pip, axel",
         when(lambda r: r.range is not None, serve(content_range=lambda *_: None), no_ranges())),
    Case("416 to every range", "replicate/pget#55",
         when(lambda r: r.range is not None, plain("416 No"), no_ranges())),
    Case("400 to every range", "not told from a refusal",
         when(lambda r: r.range is not None, plain("400 Bad Request"), no_ranges()), "SourceRefused"),
    Case("a probe honoured, later ranges not", "AnInsomniacy/aria2-next#43", in_turn(serve(), no_ranges())),
    Case("every other back end without ranges", "mixed back ends", when(odd, serve(), no_ranges())),
    Case("a stream that breaks once", "RFC 9112 8",
         in_turn(no_ranges(cut=900_000), no_ranges(cut=900_000), no_ranges())),
    Case("a stream that always breaks", "never complete", no_ranges(cut=900_000), BUSY),
    Case("a chunked stream without its last chunk", "RFC 9112 8",
         raw(head("200 OK", "Transfer-Encoding: chunked") + b"100000\r\n" + CONTENT[:MIB] + b"\r\n"), BUSY),
    Case("a chunked stream cut in a chunk", "RFC 9112 8",
         raw(head("200 OK", "Transfer-Encoding: chunked") + b"100000\r\n" + CONTENT[:1000]), BUSY),
    Case("a chunk size that is no number", "RFC 9112 7.1",
         raw(head("200 OK", "Transfer-Encoding: chunked") + b"zz\r\nhello\r\n0\r\n\r\n"), BUSY),
    Case("a stream shorter than promised", "RFC 9112 8", no_ranges(SMALL, length=lambda n: str(n + 5)), BUSY, SMALL),
    Case("a stream longer than promised", "RFC 9112 6.3: the rest is another message",
         no_ranges(SMALL, body=lambda data: data + b"EVIL"), EITHER, SMALL),
    Case("a stream that changes while it starts over", "aria2, axel",
         in_turn(no_ranges(cut=900_000), no_ranges(OTHER, etag='"v2"', date=LATER)), RIGHT, OTHER),
]  # fmt: skip

LIES = [
    Case("Content-Range shifted by one", "pip: only the start is checked", in_turn(
        serve(), serve(content_range=lambda a, b, n: f"bytes {a + 1}-{b}/{n}")), UNTRUSTED),
    Case("a body of other bytes than Content-Range says, shorter", "pget", in_turn(
        serve(), serve(body=lambda data: data[:-10], length=lambda n: str(n - 10))), UNTRUSTED),
    Case("Content-Range without a total that was there", "most", in_turn(serve(), serve(total="*")), EITHER),
    Case("another total", "most do not compare it", in_turn(serve(), serve(total=str(len(CONTENT) + 1))), UNTRUSTED),
    Case("a range that ends before it starts", "RFC 9110 14.4",
         in_turn(serve(), serve(content_range=lambda a, b, n: f"bytes {b + 1}-{a}/{n}")), UNTRUSTED),
    Case("a range past the size", "RFC 9110 14.4",
         in_turn(serve(), serve(content_range=lambda a, b, n: f"bytes {a}-{n}/{n}")), UNTRUSTED),
    Case("another unit", "RFC 9110 14.1",
         in_turn(serve(), serve(content_range=lambda a, b, n: f"items {a}-{b}/{n}")), UNTRUSTED),
    Case("no Content-Range on later ranges", "pip, axel",
         in_turn(serve(), serve(content_range=lambda *_: None)), UNTRUSTED),
    Case("multipart/byteranges", "RFC 9110 15.3.7.2", in_turn(serve(), serve(
        content_range=lambda *_: None, extra=("Content-Type: multipart/byteranges; boundary=x",))), UNTRUSTED),
    Case("206 with the whole file's length", "axel",
         in_turn(serve(), serve(length=lambda _: str(len(CONTENT)))), UNTRUSTED),
    Case("206 to the probe from the middle", "pip; a plain GET is right",
         serve(slice_of=lambda first, last: (first + 1, last))),
    Case("206 from the middle to all but the probe", "pip",
         in_turn(serve(), serve(slice_of=lambda first, last: (first + 1, last))), UNTRUSTED),
    Case("two Content-Lengths", "RFC 9112 6.3", serve(SMALL, length=lambda n: f"{n}, {n + 1}"), EITHER, SMALL),
    Case("two Content-Length lines", "request smuggling", raw(head(
        "200 OK", "Content-Length: 5", "Content-Length: 6") + b"hello!"), (*UNTRUSTED, "OriginUnreachable"), SMALL),
    Case("a negative length", "RFC 9110 8.6", raw(head("200 OK", "Content-Length: -5") + b"hello"), UNTRUSTED, SMALL),
    Case("a length in hexadecimal", "RFC 9110 8.6",
         raw(head("200 OK", "Content-Length: 0x5") + b"hello"), UNTRUSTED, SMALL),
    Case("a length of 8 EiB", "aria2 crashes", raw(head(
        "200 OK", "Content-Length: 9223372036854775807") + b"hello"), ("BadResponse", "VolumeFull", BUSY), SMALL),
    Case("a total of 1 EiB", "aria2 allocates it", serve(SMALL, total=str(2**60)), "VolumeFull", SMALL),
    Case("a total of 30 digits", "overflow", serve(SMALL, total="9" * 30), EITHER, SMALL),
    Case("transfer chunks of something else", "RFC 9112 6.1: http.client takes the framing for the file",
         raw(head("200 OK", "Transfer-Encoding: gzip, chunked") + b"12\r\n" + SMALL + b"\r\n0\r\n\r\n"),
         "BadResponse", SMALL),
    Case("a length and transfer chunks", "RFC 9112 6.3: chunks win", raw(head(
        "200 OK", "Content-Length: 5", "Transfer-Encoding: chunked") + b"12\r\n" + SMALL + b"\r\n0\r\n\r\n"),
        EITHER, SMALL),
    Case("a range of another file with the same size and no validators", "not to be seen without a digest",
         in_turn(serve(etag=None, date=None), serve(etag=None, date=None)), RIGHT),
    Case("416 with another size", "RFC 9110 15.5.17", in_turn(serve(), plain("416 No", "Content-Range: bytes */5")),
         UNTRUSTED),
    Case("416 with the same size", "broken", in_turn(
        serve(), plain("416 No", f"Content-Range: bytes */{len(CONTENT)}"), no_ranges()), EITHER),
    Case("204 to everything", "RFC 9110 15.3.5", raw(head("204 No Content")), UNTRUSTED),
    Case("201 with a body", "not a file", plain("201 Created", body=SMALL), UNTRUSTED),
    Case("304 unasked", "RFC 9110 15.4.5", raw(head("304 Not Modified")), "SourceRefused"),
    Case("a status of 99", "RFC 9112 4", raw(b"HTTP/1.1 99 What\r\n\r\n"), EITHER),
    Case("a status of 999", "RFC 9110 15", raw(head("999 What", "Content-Length: 0")), EITHER),
]  # fmt: skip

#: When an answer was sent, by its head; the date of the file is an hour before.
AN_HOUR_LATER = ("Date: Thu, 01 Oct 2026 11:00:00 GMT",)

CHANGES = [
    Case("replaced midway, ranges: started over", "aria2#892",
         in_turn(serve(), serve(), serve(OTHER, etag='"v2"', date=LATER)), RIGHT, OTHER),
    Case("replaced midway, told to fail", "option", in_turn(serve(), serve(), serve(OTHER, etag='"v2"', date=LATER)),
         "SourceChanged", options={"restarts": False}),
    Case("replaced midway, If-Range ignored", "RFC 9110 13.1.5",
         in_turn(serve(), serve(), serve(OTHER, etag='"v2"', date=LATER, honours_if_range=False)), RIGHT, OTHER),
    Case("replaced midway, no tags", "RFC 9110 8.8.2",
         in_turn(serve(etag=None), serve(etag=None), serve(OTHER, etag=None, date=LATER)), RIGHT, OTHER),
    Case("replaced midway by a longer file", "size", in_turn(
        serve(), serve(OTHER + b"x", etag='"v2"', date=LATER)), RIGHT, OTHER + b"x"),
    Case("replaced midway by a small file", "size",
         in_turn(serve(), serve(SMALL, etag='"v2"', date=LATER)), RIGHT, SMALL),
    Case("replaced midway by an empty file", "size", in_turn(serve(), serve(b"", etag='"v2"', date=LATER)), RIGHT, b""),
    Case("replaced midway, same date, strict", "AnInsomniacy/aria2-next#46",
         in_turn(serve(), serve(etag='"edge-2"')), EITHER, options={"strict": True}),
    Case("a tag for each edge", "AnInsomniacy/aria2-next#46",
         when(odd, serve(etag='"edge-1"', extra=AN_HOUR_LATER), serve(etag='"edge-2"', extra=AN_HOUR_LATER))),
    Case("replaced midway, same date, no telling how young", "RFC 9110 8.8.2.2",
         in_turn(serve(), serve(OTHER, etag='"v2"')), RIGHT, OTHER),
    Case("a tag for each edge, strict", "--strict",
         when(odd, serve(etag='"edge-1"', extra=AN_HOUR_LATER), serve(etag='"edge-2"', extra=AN_HOUR_LATER)),
         EITHER, options={"strict": True}),
    Case("200 to If-Range, 206 without", "AnInsomniacy/aria2-next#43",
         when(lambda r: r.header("If-Range") is not None, no_ranges(), serve())),
    Case("the tag is gone on later ranges: started over", "RFC 9110 15.3.7",
         in_turn(serve(OTHER, date=None), serve(etag=None, date=None))),
    Case("the date is gone on later ranges: started over", "RFC 9110 15.3.7",
         in_turn(serve(OTHER, etag=None), serve(etag=None, date=None))),
    Case("the tag is gone on later ranges, told to fail", "RFC 9110 15.3.7",
         in_turn(serve(date=None), serve(etag=None, date=None)), "SourceChanged", options={"restarts": False}),
    Case("the date is gone on later ranges, told to fail", "RFC 9110 15.3.7",
         in_turn(serve(etag=None), serve(etag=None, date=None)), "SourceChanged", options={"restarts": False}),
    Case("a strong tag turned weak, same date", "Apache just after a write",
         in_turn(serve(etag='W/"v1"'), serve(etag='"v1"')), RIGHT),
    Case("changes at each request", "a log file",
         lambda r: (serve(OTHER, etag=f'"{next(_counter)}"', date=None)(r),), "SourceChanged"),
]  # fmt: skip


def failing_then(handler: Handler, count: int = 1) -> Handler:
    return in_turn(serve(), *[handler] * count, serve())


RETRIES = [
    *(
        Case(f"{status} now and then", "RFC 9110 15; RFC 6585", failing_then(plain(status)))
        for status in ("408 Timeout", "425 Too Early", "429 Too Many", "500 Oops", "502 Bad", "503 Busy", "504 Late",
                       "520 Edge")
    ),
    *(
        Case(f"{status} for ever", "bounded by the budget", in_turn(serve(), plain(status)), BUSY)
        for status in ("429 Too Many", "503 Busy", "500 Oops")
    ),
    *(
        Case(f"{status} midway", "final: RFC 9110 15.5", in_turn(serve(), plain(status)), "SourceRefused")
        for status in ("401 No", "403 No", "404 No", "410 Gone", "501 No", "505 No", "402 Pay", "451 Law")
    ),
    *(
        Case(f"{status} at once", "final: RFC 9110 15.5", plain(status), "SourceRefused")
        for status in ("400 Bad", "401 No", "403 No", "404 No", "410 Gone", "501 No")
    ),
    Case("503 at the probe, once", "RFC 9110 15.6.4", in_turn(plain("503 Busy"), serve())),
    Case("Retry-After in seconds", "RFC 9110 10.2.3", failing_then(plain("503 Busy", "Retry-After: 1"))),
    Case("Retry-After of nothing", "pget inverts it", failing_then(plain("429 Slow", "Retry-After: 0"))),
    Case("Retry-After in the past", "RFC 9110 10.2.3",
         failing_then(plain("503 Busy", "Retry-After: Thu, 01 Jan 2015 00:00:00 GMT"))),
    Case("Retry-After of nonsense", "dropped", failing_then(plain("503 Busy", "Retry-After: soon"))),
    Case("Retry-After beyond what is waited for", "--max-wait",
         in_turn(serve(), plain("503 Busy", "Retry-After: 86400")), BUSY),
    Case("Retry-After beyond --max-wait", "--max-wait", in_turn(serve(), plain("503 Busy", "Retry-After: 9")), BUSY,
         options={"max_wait_seconds": 5}),
    Case("an error page with a tag", "must not read as a change",
         failing_then(plain("503 Busy", 'ETag: "error"', body=b"<html>"))),
    Case("closed without a word", "RFC 9112 9.3.1", failing_then(raw(b""), 3)),
    Case("closed in the head", "RFC 9112 8", failing_then(raw(b"HTTP/1.1 206 Part"), 3)),
    Case("closed in the head of a file without a length", "http.client takes it for an empty file",
         raw(b"HTTP/1.1 200 OK\r\nETag: \"v1\"\r\n"), BUSY),
    Case("closed in a header", "http.client takes it for an empty file",
         raw(b"HTTP/1.1 200 OK\r\nContent-Typ"), BUSY),
    Case("closed in the body", "pget: three breaks in a row", failing_then(serve(cut=100_000), 3)),
    Case("closed in the body each time, with progress", "rclone#87", serve(cut=200_000)),
    Case("closed after the head each time", "no progress", in_turn(serve(), serve(cut=0)), BUSY),
    Case("not HTTP", "RFC 9112 2.3", raw(JUNK), BUSY),
    Case("SSH on the port", "RFC 4253", raw(b"SSH-2.0-OpenSSH_9.2\r\n"), BUSY),
    Case("TLS on the port", "RFC 8446", raw(b"\x15\x03\x01\x00\x02\x02\x16"), BUSY),
    Case("a header line of 100 kB", "bounded by http.client",
         raw(head("200 OK", "X: " + "y" * 100_000)), UNTRUSTED, SMALL),
    Case("5,000 header lines", "bounded by http.client",
         raw(head("200 OK", *["X: y"] * 5000, "Content-Length: 18") + SMALL), EITHER, SMALL),
    Case("a header without a colon", "curl refuses it too",
         raw(b"HTTP/1.1 200 OK\r\nNonsense\r\nContent-Length: 18\r\n\r\n" + SMALL), EITHER, SMALL),
    Case("a header without a colon hides the length of a body that is cut", "http.client drops what follows",
         raw(b"HTTP/1.1 200 OK\r\nNonsense\r\nContent-Length: 18\r\n\r\n" + SMALL[:5]), BUSY),
    Case("a header folded over lines", "RFC 9112 5.2",
         raw(b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 18\r\n\r\n" + SMALL), EITHER, SMALL),
    Case("no answer", "read timeout", lambda r: r.connection.recv(1), BUSY),
    Case("a stall in the body, once", "read timeout", failing_then(
        lambda r: (serve(cut=50_000, length=str)(r), r.connection.recv(1)))),
    Case("a head that drips", "slow headers",
         slowly(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 9999, every_seconds=0.2, count=400), BUSY),
    Case("a body that drips for ever", "low-speed limit", in_turn(serve(), lambda r: (
        r.send(head("206 Partial Content", 'ETag: "v1"', f"Last-Modified: {DATE}",
                    f"Content-Range: bytes {r.range[0]}-{r.range[1]}/{len(CONTENT)}",
                    f"Content-Length: {r.range[1] - r.range[0] + 1}")),
        slowly(CONTENT[r.range[0]:], every_seconds=0.3, count=100)(r)), serve()), EITHER),
]  # fmt: skip

REDIRECTS = [
    *(
        Case(f"{status}", "RFC 9110 15.4", by_path({"/file.bin": redirect("/real", status)}, serve()))
        for status in ("301 Moved", "302 Found", "303 Other", "307 Temporary", "308 Permanent")
    ),
    Case("a redirect to a relative name", "RFC 9110 10.2.2", by_path({"/file.bin": redirect("real")}, serve())),
    Case("a redirect with a fragment", "RFC 9110 10.2.2", by_path({"/file.bin": redirect("/real#x")}, serve())),
    Case("five redirects", "RFC 9110 15.4", by_path({"/file.bin": redirect("/1"), **{
        f"/{i}": redirect(f"/{i + 1}") for i in range(1, 5)}}, serve())),
    Case("redirects for ever", "RFC 9110 15.4", redirect("/file.bin"), "RedirectRefused"),
    Case("a redirect to another scheme", "SSRF", redirect("file:///etc/passwd"), "RedirectRefused"),
    Case("a redirect to ftp", "SSRF", redirect("ftp://127.0.0.1/x"), "RedirectRefused"),
    Case("a redirect without a Location", "RFC 9110 15.4", plain("302 Found"), EITHER),
    Case("a redirect to an empty Location", "RFC 9110 10.2.2", redirect(""), EITHER),
    Case("a redirect with a body", "not read",
         by_path({"/file.bin": plain("302 Found", "Location: /real", body=JUNK)}, serve())),
    Case("a redirect to a port that is closed", "unreachable", redirect("http://127.0.0.1:1/x"), BUSY),
    Case("a link that expires", "aria2#2197, #1419",
         by_path({"/file.bin": lambda r: (redirect(f"/real?n={next(_counter)}")(r),)},
                 when(odd, serve(), serve(cut=300_000)))),
    *(
        Case(f"every third link is expired when it is used: {status}", "RFC 9110 15.4; aria2#1419", by_path(
            {"/file.bin": lambda r: (redirect(f"/real?n={next(_counter)}")(r),)},
            when(lambda r: int(r.path.partition("n=")[2]) % 3 == 2, plain(status), serve())))
        for status in ("400 Bad", "401 Unauthorized", "403 Forbidden", "404 Not Found", "410 Gone")
    ),
    *(
        Case(f"all links are expired when they are used: {status}", "never for ever", by_path(
            {"/file.bin": redirect("/real")}, plain(status)), "SourceRefused")
        for status in ("400 Bad", "401 Unauthorized", "403 Forbidden", "404 Not Found", "410 Gone")
    ),
    Case("after the probe all links are expired", "never for ever", by_path(
        {"/file.bin": redirect("/real")}, in_turn(serve(), plain("403 Forbidden"))), BUSY),
    Case("a redirected small file", "RFC 9110 15.4", by_path({"/file.bin": redirect("/real")}, serve(SMALL)),
         content=SMALL),
    Case("300 with choices", "RFC 9110 15.4.1", plain("300 Many", body=b"<a>"), "SourceRefused"),
]  # fmt: skip

CODINGS = [
    Case("gzip though the plain file was asked for", "compressed on the fly",
         raw(head("200 OK", "Content-Encoding: gzip", f"Content-Length: {len(gz)}") + gz)),
    Case("gzip in answer to ranges", "requests' default, sliced", when(
        lambda r: r.range is not None,
        serve(gz, extra=("Content-Encoding: gzip",)),
        serve(gz, ranges=False, extra=("Content-Encoding: gzip",)))),
    Case("deflate", "RFC 9110 8.4.1.2",
         raw(head("200 OK", "Content-Encoding: deflate") + zlib.compress(CONTENT))),
    Case("gzip that is cut", "RFC 9112 8",
         raw(head("200 OK", "Content-Encoding: gzip", f"Content-Length: {len(gz)}") + gz[: len(gz) // 2]), BUSY),
    *(
        Case(f"gzip without a length that is cut {left} bytes before its end", "RFC 1952 2.3",
             raw(head("200 OK", "Content-Encoding: gzip") + gz[:-left]), BUSY)
        for left in (1, 8, 100, len(gz) - 5)
    ),
    Case("deflate without a length that is cut", "RFC 1950 2.2",
         raw(head("200 OK", "Content-Encoding: deflate") + zlib.compress(CONTENT)[:-100]), BUSY),
    Case("gzip without a length", "RFC 9112 6.3", raw(head("200 OK", "Content-Encoding: gzip") + gz)),
    Case("gzip of two members without a length", "RFC 1952 2.2",
         raw(head("200 OK", "Content-Encoding: gzip") + gzip.compress(CONTENT[:MIB]) + gzip.compress(CONTENT[MIB:]))),
    Case("gzip with zeros after its end", "gzip(1)", raw(head("200 OK", "Content-Encoding: gzip") + gz + bytes(512))),
    Case("an empty body that is said to be gzip", "lies", raw(head("200 OK", "Content-Encoding: gzip")), content=b""),
    Case("gzip that is none", "lies", raw(head("200 OK", "Content-Encoding: gzip", "Content-Length: 18") + SMALL),
         EITHER, SMALL),
    Case("a coding nobody knows", "RFC 9110 8.4",
         plain("200 OK", "Content-Encoding: magic", body=SMALL), "BadResponse"),
    Case("br, which was not offered", "RFC 9110 12.5.3",
         plain("200 OK", "Content-Encoding: br", body=SMALL), "BadResponse"),
    Case("ranges encoded now, plain before", "mixed back ends",
         in_turn(serve(), serve(extra=("Content-Encoding: gzip",))), UNTRUSTED),
]  # fmt: skip


def repr_digest(content: bytes) -> str:
    return f"Repr-Digest: sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


MD5_OF_OTHER = base64.b64encode(hashlib.md5(OTHER).digest()).decode()

SIZES = [
    Case("larger than --max-size", "option", serve(), "TooLarge", options={"max_size_bytes": MIB}),
    Case("a stream larger than --max-size", "endless bodies", no_ranges(length=lambda _: None), "TooLarge",
         options={"max_size_bytes": MIB}),
    Case("as large as --max-size", "option", serve(), options={"max_size_bytes": len(CONTENT)}),
    Case("a digest that fits", "option", serve(), options={"sha256": hashlib.sha256(CONTENT).hexdigest()}),
    Case("a digest that does not", "option", serve(), "DigestMismatch", options={"sha256": "0" * 64}),
    Case("a Repr-Digest that fits", "RFC 9530 3", serve(extra=(repr_digest(CONTENT),))),
    Case("a Repr-Digest that does not", "RFC 9530 3", serve(extra=(repr_digest(OTHER),)), "DigestMismatch"),
    Case("a Repr-Digest that does not, of one chunk", "RFC 9530 3",
         serve(SMALL, extra=(repr_digest(OTHER),)), "DigestMismatch"),
    Case("a Repr-Digest that does not, not to be compared", "option", serve(extra=(repr_digest(OTHER),)),
         options={"verify_offered": False}),
    Case("a Repr-Digest that contradicts the right one", "option", serve(extra=(repr_digest(OTHER),)),
         options={"sha256": hashlib.sha256(CONTENT).hexdigest()}),
    Case("an x-goog-hash that does not fit", "GCS", serve(extra=("x-goog-hash: crc32c=AAAAAA==",)), "DigestMismatch"),
    Case("a Content-MD5 of each range", "RFC 2616 14.15: of the body", serve(extra=(f"Content-MD5: {MD5_OF_OTHER}",))),
    Case("a Content-MD5 that does not fit", "RFC 2616 14.15", no_ranges(extra=(f"Content-MD5: {MD5_OF_OTHER}",)),
         "DigestMismatch"),
    Case("shared layout", "layout", serve(), options={"layout": "shared"}),
    Case("shared layout without a strong tag", "layout", serve(etag=None), "BadOption", options={"layout": "shared"}),
    Case("shared layout and breaks", "layout", failing_then(serve(cut=77_777), 4), options={"layout": "shared"}),
    Case("chunks that are no whole MiB", "layout", serve(), options={"chunk_size_bytes": 333_333}),
]  # fmt: skip


def needs(name: str, value: str) -> Handler:
    return when(
        lambda r: r.header(name) == value, serve(), plain("401 No", 'WWW-Authenticate: Basic realm="x"')
    )


ACCESS = [
    Case("Basic", "RFC 7617", needs("Authorization", "Basic bWU6c2VjcmV0"), access={"user": "me:secret"}),
    Case("Basic with an empty password", "RFC 7617", needs("Authorization", "Basic bWU6"), access={"user": "me:"}),
    Case("Basic in UTF-8", "RFC 7617 2.1", needs("Authorization", "Basic bcO8OsOkw7bDvA=="), access={"user": "mü:äöü"}),
    Case("Basic, wrong", "RFC 9110 15.5.2",
         needs("Authorization", "Basic x"), "SourceRefused", access={"user": "me:no"}),
    Case("a bearer token", "RFC 6750", needs("Authorization", "Bearer t0ken"),
         access={"headers": {"Authorization": "Bearer t0ken"}}),
    Case("a header of one's own", "-H", needs("X-Api-Key", "k"), access={"headers": {"X-Api-Key": "k"}}),
    Case("a cookie set on a redirect, needed behind it", "RFC 6265", by_path(
        {"/file.bin": plain("302 Found", "Location: /real", "Set-Cookie: session=1; Path=/")},
        when(lambda r: r.header("Cookie") == "session=1", serve(), plain("403 No")))),
]  # fmt: skip

CASES = [*GOOD, *NO_RANGES, *LIES, *CHANGES, *RETRIES, *REDIRECTS, *CODINGS, *SIZES, *ACCESS]


def test_there_are_as_many_behaviours_as_were_promised():
    assert len(CASES) >= 120
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.fixture(scope="module")
def servers_cluster(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A worker whose patience is short."""
    redis.client().flushall()
    with cluster(redis, tmp_path_factory.mktemp("servers")) as one:
        one.start_worker(
            "--concurrency",
            "4",
            ORCHESTRATOR_CONNECT_TIMEOUT_SECONDS="2",
            ORCHESTRATOR_READ_TIMEOUT_SECONDS="1",
            ORCHESTRATOR_LOW_SPEED_SECONDS="1",
            ORCHESTRATOR_BACKOFF_CAP_SECONDS="0.1",
            ORCHESTRATOR_FRUITLESS_ATTEMPTS="5",
        )
        yield one


@pytest.mark.parametrize(("number", "case"), list(enumerate(CASES)), ids=[case.name for case in CASES])
def test_a_server_gives_the_right_file_or_a_clear_error(servers_cluster: Cluster, number: int, case: Case):
    # A name for each case: what one that went wrong still does must not be seen by the next.
    name = f"out-{number}.bin"
    published = servers_cluster.volume / name
    allowed = (case.outcome,) if isinstance(case.outcome, str) else case.outcome
    with scripted_server(case.handler) as server, servers_cluster.orchestrator() as orchestrator:
        options = {"chunk_size_bytes": MIB, **case.options}
        job = orchestrator.submit(server.url, name, access=Access(**case.access), **options)
        try:
            job.wait(DEADLINE_SECONDS)
        except JobEndedBadly as ended:
            job.cancel()
            wait_until_clean(servers_cluster.volume)
            assert not published.exists()
            error = ended.record.error
            assert error is not None
            assert error.code != "InternalError", error
            assert len(error.message) > 10
            assert error.code in allowed or case.outcome is EITHER, error
        except StillRunning:
            job.cancel()
            wait_until_clean(servers_cluster.volume)
            raise
        else:
            content = published.read_bytes()
            published.unlink()
            wait_until_clean(servers_cluster.volume)
            assert content == case.content
            assert case.outcome in (RIGHT, EITHER)
