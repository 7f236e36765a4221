"""Digests in the heads of answers."""

from __future__ import annotations

import base64
import hashlib

import pytest
from requests.structures import CaseInsensitiveDict

from tasks.transfer.digests import crc32c
from tasks.transfer.http_source.digest_fields import offered_digests

BODY = b'{"hello": "world"}\n'
SHA256, SHA512, MD5 = (hashlib.new(name, BODY).digest() for name in ("sha256", "sha512", "md5"))
CRC32C = crc32c(BODY).to_bytes(4, "big")


def b64(value):
    return base64.b64encode(value).decode()


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        # RFC 9530, appendix B.1, has these for this body.
        ({"Repr-Digest": "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"}, {"sha-256": SHA256.hex()}),
        ({"repr-digest": f"sha-512=:{b64(SHA512)}:, md5=:{b64(MD5)}:"}, {"sha-512": SHA512.hex(), "md5": MD5.hex()}),
        ({"Digest": f"SHA-256={b64(SHA256)},unixsum=30637"}, {"sha-256": SHA256.hex()}),  # RFC 3230
        ({"x-goog-hash": f"crc32c={b64(CRC32C)}, md5={b64(MD5)}"}, {"crc32c": CRC32C.hex(), "md5": MD5.hex()}),
        # Sent decompressed, and the digests are of what is stored.
        ({"x-goog-hash": f"md5={b64(MD5)}", "x-goog-stored-content-encoding": "gzip"}, {}),
        (
            {
                "x-goog-hash": f"md5={b64(MD5)}",
                "x-goog-stored-content-encoding": "gzip",
                "Content-Encoding": "gzip",
            },
            {"md5": MD5.hex()},
        ),
        ({"Content-Digest": f"sha-256=:{b64(SHA256)}:"}, {"sha-256": SHA256.hex()}),
        ({"Content-MD5": b64(MD5)}, {"md5": MD5.hex()}),
        ({"x-amz-checksum-sha256": b64(SHA256)}, {"sha-256": SHA256.hex()}),
        ({"x-amz-checksum-crc32c": b64(CRC32C), "x-amz-checksum-type": "FULL_OBJECT"}, {"crc32c": CRC32C.hex()}),
        ({"x-amz-checksum-crc32c": b64(CRC32C), "x-amz-checksum-type": "COMPOSITE"}, {}),
        ({"x-amz-checksum-sha256": f"{b64(SHA256)}-5"}, {}),
        # What makes no sense is no offer.
        ({"Repr-Digest": "sha-256=:####:"}, {}),
        ({"Repr-Digest": "sha-256=RK/0"}, {}),
        ({"Repr-Digest": f"sha-256=:{b64(MD5)}:"}, {}),
        ({"Repr-Digest": 'sha-256="text", md5'}, {}),
        ({"Repr-Digest": "sha-256=:\N{SNOWMAN}:"}, {}),
        ({"Digest": "SHA-256"}, {}),
        ({"Digest": "=,=,,"}, {}),
        ({"x-goog-hash": "crc32c=\xff"}, {}),
        ({"Repr-Digest": f"future-1=:{b64(SHA256)}:"}, {}),
        # Two values for one algorithm: neither is to be believed.
        ({"Repr-Digest": f"md5=:{b64(MD5)}:", "Digest": f"MD5={b64(MD5[::-1])}"}, {}),
        ({}, {}),
    ],
)  # fmt: skip
def test_digests_of_a_whole_answer(headers, found):
    assert offered_digests(CaseInsensitiveDict(headers), is_whole=True) == found


@pytest.mark.parametrize("field", ["Content-Digest", "Content-MD5", "x-amz-checksum-md5"])
def test_a_digest_of_a_range_is_not_the_files(field):
    value = f"md5=:{b64(MD5)}:" if field == "Content-Digest" else b64(MD5)
    assert offered_digests(CaseInsensitiveDict({field: value}), is_whole=False) == {}
    assert offered_digests(CaseInsensitiveDict({field: value}), is_whole=True) == {"md5": MD5.hex()}


def test_the_digest_of_the_representation_comes_with_a_range_too():
    headers = CaseInsensitiveDict({"Repr-Digest": f"sha-256=:{b64(SHA256)}:"})
    assert offered_digests(headers, is_whole=False) == {"sha-256": SHA256.hex()}
