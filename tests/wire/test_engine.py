"""The engine against raw sockets: what a server may do to a chunk, and what becomes of it."""

from __future__ import annotations

import gzip
import socket
import struct
import threading

import pytest

from support.origin import origin
from support.scripted import file_answer, scripted_server
from tasks.transfer.attempt import Attempt, AttemptStopped, StopReason
from tasks.transfer.errors import (
    BadResponse,
    DestinationExists,
    OriginBusy,
    OriginUnreachable,
    RangesRefused,
    RedirectRefused,
    ResponseTruncated,
    SourceChanged,
    SourceRefused,
)
from tasks.transfer.fetch_chunk import fetch_chunk
from tasks.transfer.http_source import HttpLimits, Source
from tasks.transfer.manifest import JobSpec, LayoutName, Manifest, SourceRequest, Validator
from tasks.transfer.merge_parts import Merged, merge_parts
from tasks.transfer.volume import Volume

CONTENT = bytes(range(256)) * 400  # 102,400 bytes
HELLO_GZ = gzip.compress(b"hello")
LIMITS = HttpLimits(connect_timeout_seconds=2, read_timeout_seconds=2)
JOB = "0123456789ab"
OK = "HTTP/1.1 206 Partial Content\r\n"


class Bench:
    """A volume, a plan of three chunks and the engine's use cases on them."""

    def __init__(self, root, url, *, layout=LayoutName.PARTS, validator=None, honours_ranges=True, **request):
        self.volume = Volume(root)
        self.source = Source(SourceRequest(url=url, **request), LIMITS)
        self.manifest = Manifest(
            job_id=JOB,
            generation=1,
            plan_name="0123456789ab",
            destination="file.bin",
            source_name=self.source.name,
            size_bytes=len(CONTENT),
            validator=validator or Validator(etag='"v1"'),
            honours_ranges=honours_ranges,
            chunk_size_bytes=40_000,
            layout=layout,
            spec=JobSpec(sync=False),
            sealed_request="plain:{}",
            created_at=0.0,
        )
        self.folder = self.volume.job(JOB)
        self.folder.create()
        assert self.folder.write_first_manifest(self.manifest)
        self._count = 0

    def fetch(self, number, attempt=None):
        self._count += 1
        attempt = attempt or Attempt(f"a{self._count}")
        return fetch_chunk(
            self.source, self.folder, self.manifest, self.manifest.chunk(number), attempt, "host-1"
        )

    def content(self):
        merged = merge_parts(self.volume, self.manifest)
        assert isinstance(merged, Merged)
        return merged.path.read_bytes()


SIZE = len(CONTENT)


def partial(first, last, body, *, size=SIZE, headers='ETag: "v1"\r\n', promised=None):
    length = last - first + 1 if promised is None else promised
    return (
        f"{OK}{headers}Content-Range: bytes {first}-{last}/{size}\r\nContent-Length: {length}\r\n"
        f"Connection: close\r\n\r\n".encode()
        + body
    )


@pytest.mark.parametrize("layout", [LayoutName.PARTS, LayoutName.SHARED])
def test_parts_fetched_in_any_order_are_merged_in_order(tmp_path, layout):
    with scripted_server(file_answer(CONTENT)) as server:
        bench = Bench(tmp_path, server.url, layout=layout)
        for number in (2, 0, 1):
            bench.fetch(number)
        assert bench.content() == CONTENT
        assert server.requests[0].header("Accept-Encoding") == "identity"


@pytest.mark.parametrize("layout", [LayoutName.PARTS, LayoutName.SHARED])
def test_a_chunk_that_breaks_three_times_in_a_row_goes_on_at_the_byte(tmp_path, layout):
    def breaks(request):
        first, last = request.range
        request.send(partial(first, last, CONTENT[first : min(first + 9_000, last + 1)]))

    with scripted_server(breaks) as server:
        bench = Bench(tmp_path, server.url, layout=layout)
        attempts = []
        for _ in range(4):
            attempts.append(Attempt(f"b{len(attempts)}"))
            with pytest.raises((ResponseTruncated, OriginUnreachable)):
                bench.fetch(0, attempts[-1])
            assert attempts[-1].brought_bytes == 9_000
        brought = bench.fetch(0)
        assert [request.range for request in server.requests] == [
            (start, 39_999) for start in (0, 9_000, 18_000, 27_000, 36_000)
        ]
        assert brought.proven.length_bytes == 40_000
        assert brought.by_worker == {"host-1": 40_000}
        bench.source = Source(SourceRequest(url=server.url), LIMITS)
    with scripted_server(file_answer(CONTENT)) as server:
        bench.source = Source(SourceRequest(url=server.url), LIMITS)
        bench.fetch(1)
        bench.fetch(2)
    assert bench.content() == CONTENT


def test_a_server_that_sends_less_than_asked_is_asked_for_the_rest(tmp_path):
    def small(request):
        first, last = request.range
        last = min(last, first + 14_999)
        request.send(partial(first, last, CONTENT[first : last + 1]))

    with scripted_server(small) as server:
        bench = Bench(tmp_path, server.url)
        for number in range(3):
            bench.fetch(number)
        assert bench.content() == CONTENT
        assert len(server.requests) == 3 + 3 + 2


def test_of_a_server_that_sends_more_than_asked_only_that_is_taken(tmp_path):
    def large(request):
        request.send(partial(request.range[0], SIZE - 1, CONTENT[request.range[0] :]))

    with scripted_server(large) as server:
        bench = Bench(tmp_path, server.url)
        for number in range(3):
            assert bench.fetch(number).proven.length_bytes <= 40_000
        assert bench.content() == CONTENT


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (partial(0, 39_999, CONTENT[:100]), (ResponseTruncated, OriginUnreachable)),
        (b"HTTP/1.1 200 OK\r\nETag: \"v1\"\r\nContent-Length: 102400\r\n\r\n" + CONTENT, RangesRefused),
        (b"HTTP/1.1 200 OK\r\nETag: \"v2\"\r\nContent-Length: 5\r\n\r\nother", SourceChanged),
        (partial(0, 39_999, CONTENT[:40_000], headers='ETag: "v2"\r\n'), SourceChanged),
        (partial(0, 39_999, CONTENT[:40_000], headers=""), SourceChanged),  # the tag is gone
        (partial(0, 39_999, CONTENT[:40_000], size=102_401), SourceChanged),
        (partial(1, 40_000, CONTENT[1:40_001]), BadResponse),  # another range than asked
        (partial(0, 39_999, CONTENT[:40_000], promised=39_000), BadResponse),  # two lengths
        (f"{OK}ETag: \"v1\"\r\nContent-Length: 40000\r\n\r\n".encode() + CONTENT[:40_000], BadResponse),
        (b"HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */5\r\n\r\n", SourceChanged),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", SourceRefused),
        (b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", OriginBusy),
        (b"HTTP/1.1 429 Slow Down\r\nContent-Length: 0\r\n\r\n", OriginBusy),
        (b"", OriginUnreachable),  # closed without a word
        (b"\x15\x03\x01\x00\x02\x02\x16", OriginUnreachable),  # TLS on the port
        (b"HTTP/1.1 302 Found\r\nLocation: ftp://h/x\r\nContent-Length: 0\r\n\r\n", RedirectRefused),
    ],
)  # fmt: skip
def test_an_answer_that_is_not_the_range_that_was_planned_gives_an_error_and_no_receipt(
    tmp_path, answer, error
):
    with scripted_server(answer) as server:
        bench = Bench(tmp_path, server.url)
        with pytest.raises(error):
            bench.fetch(0)
        assert not bench.folder.proven(bench.manifest, bench.manifest.chunk(0)).receipts
    with scripted_server(file_answer(CONTENT)) as server:
        bench.source = Source(SourceRequest(url=server.url), LIMITS)
        for number in range(3):
            bench.fetch(number)
        assert bench.content() == CONTENT  # nothing of the bad answer was kept


def test_a_reset_in_the_middle_keeps_what_came(tmp_path):
    def reset(request):
        request.send(partial(0, 39_999, CONTENT[:20_000]))
        request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with scripted_server(reset, file_answer(CONTENT)) as server:
        bench = Bench(tmp_path, server.url)
        with pytest.raises((OriginUnreachable, ResponseTruncated)):
            bench.fetch(0)
        for number in range(3):
            bench.fetch(number)
        assert bench.content() == CONTENT


def test_retry_after_reaches_the_policy(tmp_path):
    with scripted_server(b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n") as server:
        with pytest.raises(OriginBusy) as caught:
            Bench(tmp_path, server.url).fetch(0)
        assert caught.value.retry_after_seconds == 7


def test_a_stalled_read_ends_by_its_timeout(tmp_path):
    release = threading.Event()

    def stall(request):
        request.send(partial(0, 39_999, CONTENT[:20_000]))
        release.wait(30)

    with scripted_server(stall) as server, pytest.raises(OriginUnreachable, match="read timeout"):
        Bench(tmp_path, server.url).fetch(0)
    release.set()


def test_chunks_of_one_origin_share_a_connection(tmp_path):
    with origin(CONTENT) as served:
        bench = Bench(tmp_path, served.url)
        for number in range(3):
            bench.fetch(number)
        assert bench.content() == CONTENT
        assert served.connections_count == 1


def test_a_stopped_attempt_returns_from_a_blocked_read_and_keeps_what_came(tmp_path):
    release, sent = threading.Event(), threading.Event()

    def stall(request):
        request.send(partial(0, 39_999, CONTENT[:32_768]))
        sent.set()
        release.wait(30)

    with scripted_server(stall, file_answer(CONTENT)) as server:
        bench = Bench(tmp_path, server.url)
        # A read timeout far beyond the test's: only the stop can end the read.
        bench.source = Source(
            SourceRequest(url=server.url), HttpLimits(connect_timeout_seconds=2, read_timeout_seconds=200)
        )
        attempt = Attempt("stopped")

        def stop():
            sent.wait(10)
            attempt.stop(AttemptStopped(StopReason.DRAIN))

        threading.Thread(target=stop, daemon=True).start()
        with pytest.raises(AttemptStopped):
            bench.fetch(0, attempt)
        release.set()
        bench.fetch(0)
        for number in (1, 2):
            bench.fetch(number)
        assert bench.content() == CONTENT


@pytest.mark.parametrize(
    "headers",
    [
        {"headers": {"Authorization": "Bearer t0ken"}},
        {"headers": {"Cookie": "session=t0ken"}},
        {"headers": {"X-Api-Key": "t0ken"}},
        {"user": "me:t0ken"},
    ],
)
def test_credentials_stay_with_the_origin_they_were_given_for(tmp_path, headers):
    with scripted_server(file_answer(CONTENT)) as target:
        redirect = f"HTTP/1.1 302 Found\r\nLocation: {target.url}\r\nContent-Length: 0\r\n\r\n".encode()
        with scripted_server(redirect) as server:
            bench = Bench(tmp_path, server.url, **headers)
            bench.fetch(0)
            sent = server.requests[0].head
            assert "t0ken" in sent or "bWU6dDBrZW4=" in sent
        for word in ("t0ken", "bWU6dDBrZW4=", "Authorization", "Cookie"):
            assert word not in target.requests[0].head


def test_endless_redirects_end(tmp_path):
    with scripted_server(b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n") as server:
        with pytest.raises(RedirectRefused, match="more than"):
            Bench(tmp_path, server.url).fetch(0)
        assert len(server.requests) < 20


@pytest.mark.parametrize(
    ("answers", "size", "honours", "etag"),
    [
        ((partial(0, 99, CONTENT[:100]),), len(CONTENT), True, '"v1"'),
        ((partial(0, 99, CONTENT[:100], headers='ETag: W/"v1"\r\n'),), len(CONTENT), True, None),  # weak
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",), 5, False, None),
        (
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",),
            None,
            False,
            None,
        ),
        ((b"HTTP/1.0 200 OK\r\n\r\nhello",), None, False, None),
        (  # an empty file satisfies no range
            (
                b"HTTP/1.1 416 No\r\nContent-Range: bytes */0\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            ),
            0,
            False,
            None,
        ),
        (  # more than was asked for: the rest is not read
            (partial(0, 199, CONTENT[:200]),),
            len(CONTENT),
            True,
            '"v1"',
        ),
        (  # a range that was not asked for: a plain GET may be right
            (partial(5, 99, CONTENT[5:100]), b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
            5,
            False,
            None,
        ),
        (  # compressed though it was not asked for: the length that is stated is not the file's
            (
                b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s"
                % (len(HELLO_GZ), HELLO_GZ),
            ),
            None,
            False,
            None,
        ),
        (  # a range of a file whose size the server does not know cannot be planned
            (
                partial(0, 99, CONTENT[:100], size="*"),
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            ),
            None,
            False,
            None,
        ),
    ],
)
def test_the_probe_learns_size_validator_and_whether_ranges_are_honoured(answers, size, honours, etag):
    with scripted_server(*answers) as server:
        probe = Source(SourceRequest(url=server.url), LIMITS).probe(100, Attempt("p"))
        with probe.body as body:
            assert probe.identity.size_bytes == size
            assert probe.honours_ranges is honours
            assert probe.identity.validator.etag == etag
            assert b"".join(map(bytes, body.blocks())) in (b"hello", b"", CONTENT[:100])


@pytest.mark.parametrize(
    "head",
    [
        "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n",
        "HTTP/1.1 200 OK\r\nNonsense\r\nContent-Length: 5\r\n",
        # A 206 to the plain GET as well, which is asked for when the first makes no sense.
        f"{OK}Content-Range: bytes 5-9/10\r\nContent-Length: 5\r\n",  # not from the start
        f"{OK}Content-Range: bytes 0-4/5\r\nContent-Length: 5\r\nContent-Encoding: gzip\r\n",
        f"{OK}Content-Range: nonsense\r\nContent-Length: 5\r\n",
        "HTTP/1.1 204 No Content\r\n",
    ],
)
def test_a_probe_does_not_plan_on_an_answer_that_contradicts_itself(head):
    with scripted_server(f"{head}Connection: close\r\n\r\nhello".encode()) as server:
        source = Source(SourceRequest(url=server.url), LIMITS)
        with pytest.raises((BadResponse, OriginUnreachable)):
            source.probe(100, Attempt("p"))


def test_a_body_that_goes_on_after_its_promise_is_not_taken():
    chunked = (
        f"{OK}ETag: \"v1\"\r\nContent-Range: bytes 0-4/10\r\nTransfer-Encoding: chunked\r\n\r\n"
        "9\r\nhelloEVIL\r\n0\r\n\r\n"
    ).encode()  # fmt: skip
    with scripted_server(chunked) as server:
        probe = Source(SourceRequest(url=server.url), LIMITS).probe(5, Attempt("p"))
        with probe.body as body, pytest.raises(BadResponse, match="goes on"):
            list(body.blocks())


def test_an_error_of_the_network_does_not_show_the_query():
    source = Source(SourceRequest(url="http://127.0.0.1:1/x?sig=s3cret"), LIMITS)
    with pytest.raises(OriginUnreachable) as caught:
        source.probe(100, Attempt("p"))
    assert "s3cret" not in str(caught.value)
    assert "connection refused" in str(caught.value)


def test_a_stream_without_ranges_starts_over_and_is_whole(tmp_path):
    whole = f"HTTP/1.1 200 OK\r\nETag: \"v1\"\r\nContent-Length: {len(CONTENT)}\r\n\r\n".encode()  # fmt: skip
    with scripted_server(whole + CONTENT[:50_000], whole + CONTENT) as server:
        bench = Bench(tmp_path, server.url, honours_ranges=False)
        with pytest.raises((ResponseTruncated, OriginUnreachable)):
            bench.fetch(0)
        bench.fetch(0)
        assert server.requests[1].range is None
        assert bench.content() == CONTENT


def test_a_merge_that_is_run_again_never_writes_to_the_published_file(tmp_path):
    with scripted_server(file_answer(CONTENT)) as server:
        bench = Bench(tmp_path, server.url)
        for number in range(3):
            bench.fetch(number)
        assert bench.content() == CONTENT
        published = tmp_path / "file.bin"
        before = published.stat()
        assert bench.content() == CONTENT  # not DestinationExists: it is this job's own file
        after = published.stat()
        assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize("layout", [LayoutName.PARTS, LayoutName.SHARED])
def test_a_name_that_was_taken_meanwhile_is_only_taken_over_with_the_files_own_bytes(tmp_path, layout):
    published = tmp_path / "file.bin"
    with scripted_server(file_answer(CONTENT)) as server:
        bench = Bench(tmp_path, server.url, layout=layout)
        for number in range(3):
            bench.fetch(number)
    (part,) = bench.folder.path.glob(
        "plan-*/" + ("shared" if layout is LayoutName.SHARED else "00000.*[0-9a-f]")
    )
    for target in ("nowhere", part):  # the second would lead nowhere soon
        published.symlink_to(target)
        with pytest.raises(DestinationExists):
            merge_parts(bench.volume, bench.manifest)
        assert published.is_symlink()
        published.unlink()
    for content in (CONTENT[:-1], CONTENT[:-1] + b"?", CONTENT + b"?"):
        published.write_bytes(content)
        with pytest.raises(DestinationExists):
            merge_parts(bench.volume, bench.manifest)
        assert published.read_bytes() == content
    assert not list(bench.folder.path.glob("plan-*/merged.*"))
    published.write_bytes(CONTENT)
    before = published.stat()
    assert bench.content() == CONTENT
    assert (published.stat().st_ino, published.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_receipts_do_not_outlive_the_shared_file(tmp_path):
    with scripted_server(file_answer(CONTENT)) as server:
        bench = Bench(tmp_path, server.url, layout=LayoutName.SHARED)
        bench.fetch(0)
        (shared,) = bench.folder.path.glob("plan-*/shared")
        shared.unlink()
        bench.folder.write_manifest(bench.manifest.model_copy(update={"generation": 2}))
        assert len(bench.folder.missing(bench.manifest)) == 3


def test_a_job_has_one_first_manifest(tmp_path):
    with scripted_server(file_answer(CONTENT)) as server:
        bench = Bench(tmp_path, server.url)
        other = bench.manifest.model_copy(update={"validator": Validator(etag='"v2"')})
        assert not bench.folder.write_first_manifest(other)
        assert bench.folder.read_manifest() == bench.manifest


def test_a_stream_that_fails_leaves_no_copy_of_what_it_had(tmp_path):
    whole = f"HTTP/1.1 200 OK\r\nContent-Length: {len(CONTENT)}\r\n\r\n".encode()
    with scripted_server(whole + CONTENT[:50_000]) as server:
        bench = Bench(tmp_path, server.url, honours_ranges=False, validator=Validator())
        for _ in range(3):
            with pytest.raises((ResponseTruncated, OriginUnreachable)):
                bench.fetch(0)
        (folder,) = bench.folder.path.glob("plan-*")
        assert list(folder.iterdir()) == []


def test_an_attempt_that_is_killed_does_not_lose_what_earlier_ones_had(tmp_path):
    def breaks(request):
        first, last = request.range
        request.send(partial(first, last, CONTENT[first : first + 9_000]))

    with scripted_server(breaks, file_answer(CONTENT)) as server:
        bench = Bench(tmp_path, server.url)
        with pytest.raises((ResponseTruncated, OriginUnreachable)):
            bench.fetch(0)
        # Killed: it took over and never came to save anything.
        bench.folder.open_part(bench.manifest, bench.manifest.chunk(0))
        bench.fetch(0)
        assert server.requests[1].range == (9_000, 39_999)


def test_a_slow_line_brings_its_bytes_in_small_reads():
    attempt = Attempt("slow")

    def drip(request):
        request.send(partial(0, 39_999, b""))
        for offset in range(0, 40_000, 4_000):
            request.send(CONTENT[offset : offset + 4_000])
            arrived.wait(0.05)

    arrived = threading.Event()
    with scripted_server(drip) as server:
        probe = Source(SourceRequest(url=server.url), LIMITS).probe(40_000, attempt)
        with probe.body as body:
            blocks = [bytes(block) for block in body.blocks()]
    assert b"".join(blocks) == CONTENT[:40_000]
    assert max(map(len, blocks)) <= 32_768


@pytest.mark.parametrize(
    "location",
    ["http://h:99999/", "http://h:abc/x", "http://[::1/x"],
)
def test_a_redirect_to_nowhere_is_refused(tmp_path, location):
    answer = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
    with scripted_server(answer) as server, pytest.raises((RedirectRefused, BadResponse)):
        Bench(tmp_path, server.url).fetch(0)


@pytest.mark.parametrize(
    "value",
    [
        "attachment; filename*=undefined''abc",
        "x; filename*=idna''a..b",
        "x; filename*=raw_unicode_escape''%5Cud800",
    ],
)
def test_a_name_that_cannot_be_decoded_breaks_nothing(value):
    answer = f"HTTP/1.1 200 OK\r\nContent-Disposition: {value}\r\nContent-Length: 5\r\n\r\nhello".encode()
    with scripted_server(answer) as server:
        probe = Source(SourceRequest(url=server.url), LIMITS).probe(100, Attempt("p"))
        with probe.body:
            assert probe.offered_name is None or probe.offered_name.encode()


@pytest.mark.parametrize(
    "value",
    [
        "attachment; filename=plain.bin; filename*=UTF-8''%C3%A9t%C3%A9.bin",
        "attachment; filename*=UTF-8''%C3%A9t%C3%A9.bin; filename=plain.bin",
        "attachment; filename*=iso-8859-1'fr'%E9t%E9.bin",
    ],
)
def test_the_extended_name_goes_before_the_plain_one(value):
    answer = f"HTTP/1.1 200 OK\r\nContent-Disposition: {value}\r\nContent-Length: 5\r\n\r\nhello".encode()
    with scripted_server(answer) as server:
        probe = Source(SourceRequest(url=server.url), LIMITS).probe(100, Attempt("p"))
        with probe.body:
            assert probe.offered_name == "été.bin"


def test_another_weak_tag_is_another_version(tmp_path):
    answer = partial(0, 39_999, CONTENT[:40_000], headers='ETag: W/"v2"\r\n')
    with scripted_server(answer) as server, pytest.raises(SourceChanged):
        Bench(tmp_path, server.url, validator=Validator(weak_etag='W/"v1"')).fetch(0)
