"""A manifest for tests that have no plan."""

from __future__ import annotations

from typing import Any

from tasks.transfer.manifest import JobSpec, Manifest, Validator

JOB_ID = "0123456789ab"


def manifest_of_file(size_bytes: int, **fields: Any) -> Manifest:
    """The plan of a file of one strong tag, as the first sending of its job has it; `fields` are the manifest's."""
    defaults: dict[str, Any] = {
        "job_id": JOB_ID,
        "generation": 1,
        "plan_name": JOB_ID,
        "destination": "file.bin",
        "source_name": "http://host/file.bin",
        "size_bytes": size_bytes,
        "validator": Validator(etag='"v1"'),
        "honours_ranges": True,
        "spec": JobSpec(),
        "sealed_request": "plain:{}",
        "created_at": 0.0,
    }
    return Manifest(**defaults | fields)
