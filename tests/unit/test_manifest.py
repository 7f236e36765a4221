import pytest
from pydantic import ValidationError

from tasks.transfer.manifest import JobSpec, LayoutName, Manifest, Receipt, SourceRequest, Validator


def manifest(**changes):
    fields = {
        "job_id": "0123456789ab",
        "generation": 1,
        "plan_name": "0123456789ab",
        "destination": "x.iso",
        "source_name": "http://h/x.iso",
        "size_bytes": 10,
        "validator": Validator(etag='"v1"'),
        "honours_ranges": True,
        "chunk_size_bytes": 4,
        "layout": LayoutName.PARTS,
        "spec": JobSpec(),
        "sealed_request": "plain:{}",
        "created_at": 0.0,
    }
    return Manifest.model_validate({**fields, **changes})


def shape(one):
    return [(chunk.number, chunk.start, chunk.length_bytes) for chunk in one.chunks()]


def test_chunks_cover_the_file():
    assert shape(manifest()) == [(0, 0, 4), (1, 4, 4), (2, 8, 2)]


@pytest.mark.parametrize(
    ("changes", "chunks"),
    [
        ({"size_bytes": 0}, []),  # an empty file has no bytes to fetch
        ({"honours_ranges": False}, [(0, 0, 10)]),  # one stream
        ({"honours_ranges": False, "size_bytes": 0}, []),
        ({"size_bytes": None}, [(0, 0, None)]),  # of unknown length
    ],
)
def test_what_cannot_be_split_is_one_chunk(changes, chunks):
    assert shape(manifest(**changes)) == chunks


def test_a_manifest_comes_back_from_the_volume_as_it_went():
    one = manifest()
    assert Manifest.model_validate_json(one.model_dump_json()) == one


@pytest.mark.parametrize("number", [-1, 3])
def test_a_message_cannot_name_a_chunk_that_the_plan_has_not(number):
    with pytest.raises(ValueError, match="no chunk"):
        manifest().chunk(number)


@pytest.mark.parametrize("file_name", ["../../etc/passwd", "/etc/passwd", "", "a/b"])
def test_a_receipt_cannot_name_a_file_elsewhere(file_name):
    with pytest.raises(ValidationError):
        Receipt(number=0, length_bytes=1, crc32c=0, file_name=file_name, brought_bytes={})


@pytest.mark.parametrize("job_id", ["../../../x", "", "0123456789AB", "0123456789ab0"])
def test_a_job_id_is_twelve_hexadecimal_digits(job_id):
    with pytest.raises(ValidationError):
        manifest(job_id=job_id)


@pytest.mark.parametrize(
    ("request_", "has"),
    [
        (SourceRequest(url="http://h/x?sig=1"), False),
        (SourceRequest(url="http://h/x", headers={"Cookie": "a"}), True),
        (SourceRequest(url="http://h/x", user="me:secret"), True),
        (SourceRequest(url="http://h/x", checksums=SourceRequest(url="http://h/SUMS")), False),
        (
            SourceRequest(url="http://h/x", checksums=SourceRequest(url="http://h/SUMS", user="me:secret")),
            True,
        ),
        (SourceRequest(url="http://h/x@y"), False),  # an @ in the path is no user
    ],
)
def test_credentials_are_seen(request_, has):
    assert request_.has_credentials is has
