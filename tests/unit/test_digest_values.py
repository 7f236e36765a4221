"""Digests: what people write, and several over the same bytes."""

from __future__ import annotations

import hashlib

import pytest

from tasks.transfer.digests import (
    LENGTHS_BYTES,
    Hasher,
    agree,
    combine_crc32c,
    crc32c,
    parse_checksum,
    strongest,
)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("sha-256:" + "AB" * 32, ("sha-256", "ab" * 32)),
        ("SHA256:" + "ab" * 32, ("sha-256", "ab" * 32)),
        ("sha512:" + "0" * 128, ("sha-512", "0" * 128)),
        ("sha1:" + "0" * 40, ("sha-1", "0" * 40)),
        ("md5:" + "0" * 32, ("md5", "0" * 32)),
        ("crc32c:e3069283", ("crc32c", "e3069283")),
    ],
)
def test_a_checksum_is_read(text, read):
    assert parse_checksum(text) == read


@pytest.mark.parametrize(
    "text",
    [
        "ab" * 32,  # of what?
        "sha-256:" + "ab" * 31,
        "sha-256:" + "ab" * 33,
        "sha-256:" + "ag" * 32,
        "sha-256:" + "\N{FULLWIDTH DIGIT ONE}" * 64,
        "md5:" + "ab" * 32,
        "crc32:e3069283",  # another polynomial
        "sha-256:",
        "sha-256",
        ":",
        "",
    ],
)
def test_what_is_no_checksum_is_refused(text):
    with pytest.raises(ValueError, match="not"):
        parse_checksum(text)


def test_several_digests_in_one_pass():
    hasher = Hasher(LENGTHS_BYTES)
    for block in (b"many ", b"", memoryview(b"hands")):
        hasher.update(block)
    whole = b"many hands"
    assert hasher.digests() == {
        "sha-512": hashlib.sha512(whole).hexdigest(),
        "sha-256": hashlib.sha256(whole).hexdigest(),
        "sha-1": hashlib.sha1(whole).hexdigest(),
        "md5": hashlib.md5(whole).hexdigest(),
        "crc32c": f"{crc32c(whole):08x}",
    }


def test_the_whole_files_crc_comes_from_the_parts():
    parts = [b"many ", b"hands", b""]
    assert combine_crc32c((crc32c(part), len(part)) for part in parts) == crc32c(b"many hands")
    assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32/ISCSI


def test_a_digest_that_is_given_twice_must_be_the_same():
    assert agree([("md5", "aa"), ("sha-1", "bb"), ("md5", "aa")]) == {"md5": "aa", "sha-1": "bb"}
    with pytest.raises(ValueError, match="md5 twice: aa and bb"):
        agree([("md5", "aa"), ("md5", "bb")])


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (("md5", "sha-256", "sha-512"), "sha-512"),
        (("sha-1", "md5"), "sha-1"),
        (("md5", "crc32c"), "md5"),  # CRC32C is combined from the parts
        (("crc32c",), None),
        ((), None),
    ],
)
def test_the_strongest_digest_that_costs_a_pass(names, chosen):
    assert strongest(dict.fromkeys(names, "")) == chosen
