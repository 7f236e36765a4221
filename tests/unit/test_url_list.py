"""Lists of URLs: what is read, what is refused and where, and that nothing is held back or kept."""

import os
import tracemalloc

import pytest

from orchestrator.ends import Refused
from orchestrator.submission import Wanted
from orchestrator.url_list import lines_of, parse

A = "0123456789abcdef" * 4


def read(text, **more):
    return list(parse(text.encode().split(b"\n"), **more))


def refusals(text):
    return [(each.line, each.error.message) for each in read(text) if isinstance(each, Refused)]


def test_urls_have_their_options_beneath_them():
    found = read(
        f"# mirrors of the lab\n\nhttp://h/a\nhttp://h/b?x=1\n  out=sub/b.bin\n\n  \n"
        f"http://h/c\n# not this one\n\tchecksum=SHA-256={A.upper()}\n checksum=md5={A[:32]}\n out = c d \nhttp://h/d\r\n"
    )
    assert found == [
        Wanted("http://h/a", line=3),
        Wanted("http://h/b?x=1", "sub/b.bin", line=4),
        Wanted("http://h/c", "c d", {"sha-256": A, "md5": A[:32]}, line=8),
        Wanted("http://h/d", line=13),
    ]


def test_a_mark_at_the_beginning_and_a_missing_end_are_harmless():
    assert read("\ufeffhttp://h/a\n out=b", checksums="SUMS") == [Wanted("http://h/a", "b", {}, "SUMS", 1)]


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n  # nothing\n"])
def test_an_empty_list_has_nothing(text):
    assert read(text) == []


@pytest.mark.parametrize(
    ("beneath", "said"),
    [
        (" header=Authorization: secret", "'header'"),
        (" out=", "NAME=VALUE"),
        (" out", "NAME=VALUE"),
        (" out=a\n out=b", "several out="),
        (f" checksum=sha-256={A[:-1]}", "64 hexadecimal digits"),
        (" checksum=whirlpool=12", "sha-512"),
        (" checksum=abc", "sha-512"),
        (f" checksum=sha-256={A}\n checksum=sha-256={A[::-1]}", "twice"),
    ],
)
def test_a_bad_option_is_refused_with_its_url_and_the_others_are_not(beneath, said):
    text = f"http://h/a\nhttp://me:pass@h/b?key=1\n{beneath}\nhttp://h/c"
    found = read(text)
    assert [each.line for each in found] == [1, 2, 3 + beneath.count("\n") + 1]
    refused = found[1]
    assert isinstance(refused, Refused)
    assert refused.shown == "http://h/b"
    assert said in refused.error.message
    assert "secret" not in refused.error.message
    assert isinstance(found[2], Wanted)


def test_other_lines_that_make_no_sense_are_refused_where_they_are():
    assert refusals(" out=a\nhttp://h/a") == [(1, "It has an option without a URL above it.")]
    # An empty line ends an entry: who writes one need not write the next URL for this one to be brought.
    assert refusals("http://h/a\n\n out=a") == [(3, "It has an option without a URL above it.")]
    ((line, sentence),) = refusals("http://h/a\thttp://g/a")
    assert line == 1
    assert "several URLs" in sentence
    assert [line for line, _ in refusals("http://h/a\n" + "x" * 70_000 + "\nhttp://h/b")] == [2]


def test_bytes_that_are_no_text_are_refused():
    good, bad = parse([b"http://h/a", b"http://h/\xff"])
    assert good == Wanted("http://h/a", line=1)
    assert isinstance(bad, Refused)
    assert bad.line == 2
    assert bad.shown == "what is no URL"


def test_two_files_never_have_one_name():
    said = refusals(
        "http://h/a\n out=x/y\nhttp://h/b\n out=x/./y\nhttp://h/a\nhttp://h/a\nhttp://h/a\n out=z"
    )
    assert [line for line, _ in said] == [3, 6]
    assert "line 1" in said[0][1]
    assert "line 5" in said[1][1]


def test_an_entry_is_told_as_soon_as_the_next_line_has_come():
    receiver, sender = os.pipe()
    try:
        found = parse(lines_of(receiver))
        assert next(found) is None
        os.write(sender, b"http://h/a\n out=b")
        assert next(found) is None
        os.write(sender, b"c\n")
        assert next(found) is None
        os.write(sender, b"\n")
        assert next(found) == Wanted("http://h/a", "bc", line=1)
        assert next(found) is None
        os.write(sender, b"http://h/z")
        os.close(sender)
        sender = -1
        assert list(found) == [Wanted("http://h/z", line=4)]
    finally:
        os.close(receiver)
        if sender >= 0:
            os.close(sender)


def test_a_line_without_an_end_takes_no_memory(tmp_path):
    path = tmp_path / "zeros"
    with path.open("wb") as file:
        file.truncate(64 * 1024 * 1024)
        file.seek(0, os.SEEK_END)
        file.write(b"\nhttp://h/a\n")
    tracemalloc.start()
    with path.open("rb") as file:
        found = list(parse(lines_of(file.fileno())))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [type(each) for each in found] == [Refused, Wanted]
    assert peak_bytes < 4 * 1024 * 1024


def test_a_long_list_is_not_held():
    count = 50_000
    lines = (b"http://h/%d" % number for number in range(count))
    tracemalloc.start()
    found = sum(isinstance(each, Wanted) for each in parse(lines))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == count
    # As objects they would be twenty times that.
    assert peak_bytes < 1024 * 1024
