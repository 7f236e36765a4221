"""Which parts of one job may be those of another."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from orchestrator.adoption import can_be_gone_on_with
from tasks.transfer.http_source import Identity
from tasks.transfer.manifest import JobSpec, LayoutName, Manifest, Validator

TAG = Validator(etag='"v1"', last_modified="Sat, 01 Jan 2022 00:00:00 GMT")
DATE = Validator(last_modified=TAG.last_modified)
DIGEST = "ab" * 32


@dataclass
class Answer:
    """Of a probe, what counts here."""

    identity: Identity


def manifest(**fields):
    return Manifest(
        **{
            "job_id": "0123456789ab",
            "generation": 1,
            "plan_name": "0123456789ab",
            "destination": "file.bin",
            "source_name": "http://host/file.bin",
            "size_bytes": 100,
            "validator": TAG,
            "honours_ranges": True,
            "has_query": False,
            "chunk_size_bytes": 10,
            "layout": LayoutName.SHARED,
            "spec": JobSpec(),
            "sealed_request": "plain:{}",
            "created_at": 0.0,
            **fields,
        }
    )


@pytest.mark.parametrize(
    ("kept", "wanted", "is_same"),
    [
        ({}, {}, True),
        ({}, {"source_name": "http://other/file.bin"}, False),
        ({}, {"destination": "other.bin"}, False),
        ({}, {"size_bytes": 101}, False),
        ({}, {"validator": Validator(etag='"v2"')}, False),
        ({}, {"honours_ranges": False}, False),
        # A link that was signed anew; the tag says that it is the same file.
        ({"has_query": True}, {"has_query": True}, True),
        ({"validator": DATE}, {"validator": DATE}, True),
        # ?part=1 and ?part=2 may be of one size and date.
        ({"validator": DATE, "has_query": True}, {"validator": DATE, "has_query": True}, False),
        ({"validator": DATE}, {"validator": DATE, "has_query": True}, False),
        ({"validator": DATE.model_copy(update={"is_fresh": True})}, {"validator": DATE}, False),
        ({"validator": Validator()}, {"validator": Validator()}, False),
        (
            {"validator": Validator(weak_etag='W/"1"')},
            {"validator": Validator(weak_etag='W/"1"')},
            False,  # an equal weak tag proves nothing
        ),
        # Several edges, each with a tag of its own; not with --strict.
        ({}, {"validator": Validator(etag='"v2"', last_modified=TAG.last_modified)}, True),
        (
            {},
            {
                "validator": Validator(etag='"v2"', last_modified=TAG.last_modified),
                "spec": JobSpec(strict=True),
            },
            False,
        ),
        ({}, {"spec": JobSpec(layout=LayoutName.SHARED)}, True),
        ({}, {"spec": JobSpec(layout=LayoutName.PARTS)}, False),
        ({}, {"spec": JobSpec(chunk_size_bytes=10)}, True),
        ({}, {"spec": JobSpec(chunk_size_bytes=20)}, False),
        ({"refuted_digests": {"sha-256": DIGEST}}, {"spec": JobSpec(digests={"sha-256": DIGEST})}, False),
        ({"refuted_digests": {"sha-256": DIGEST}}, {}, True),
    ],
)
def test_only_parts_of_the_same_file_are_gone_on_with(kept, wanted, is_same):
    new = manifest(**wanted)
    answer = Answer(Identity(new.size_bytes, new.validator))
    assert can_be_gone_on_with(manifest(**kept), new, answer) is is_same
