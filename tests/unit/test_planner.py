import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import planner
from tasks.transfer.errors import BadName, BadOption
from tasks.transfer.manifest import LayoutName, Validator

MIB = 1024 * 1024
STRONG = Validator(etag='"v1"')
WEAK = Validator(last_modified="Thu, 01 Jan 2026 00:00:00 GMT")


@pytest.mark.parametrize(
    ("size", "chunk"),
    [
        (None, MIB),  # unknown: there is one chunk whatever its size
        (0, 8 * MIB),
        (8 * MIB, 8 * MIB),  # one chunk
        (8 * MIB + 1, 4 * MIB),  # work for more connections
        (64 * MIB, 4 * MIB),
        (100 * MIB, 7 * MIB),
        (300 * MIB, 8 * MIB),
        (2048 * MIB, 32 * MIB),  # 64 chunks
        (10_000 * MIB, 64 * MIB),  # the largest, as long as there are few enough
        (100_000 * MIB, 100 * MIB),  # never more than 1,000 chunks
    ],
)
def test_the_chunk_size_grows_with_the_file(size, chunk):
    if size is not None:
        assert planner.choose_chunk_size_bytes(size, None, connections=16) == chunk


def test_many_connections_have_a_chunk_each():
    assert planner.choose_chunk_size_bytes(256 * MIB, None, connections=64) == 4 * MIB


@given(st.integers(1, 10**16))
def test_no_file_makes_more_chunks_than_redis_should_hold(size):
    chunk = planner.choose_chunk_size_bytes(size, None, connections=16)
    assert -(-size // chunk) <= planner.MOST_CHUNKS
    assert chunk % MIB == 0  # filesystems clone whole blocks only


def test_a_chunk_size_that_makes_too_many_chunks_is_refused_with_the_least_that_would_do():
    with pytest.raises(BadOption, match="--chunk-size 3M"):
        planner.choose_chunk_size_bytes(2048 * MIB, MIB, connections=16)
    assert planner.choose_chunk_size_bytes(2048 * MIB, 3 * MIB, connections=16) == 3 * MIB


@pytest.mark.parametrize(
    ("asked", "offered", "url", "name"),
    [
        ("a/b.iso", "other.iso", "http://h/x.iso", "a/b.iso"),  # the user's word goes first
        (None, "offered.iso", "http://h/x.iso", "offered.iso"),  # then the server's
        (None, None, "http://h/a/x%20y.iso", "x y.iso"),  # then the URL's path, decoded
        (None, None, "http://h/", "download"),  # a URL without a name
        (None, "../../etc/passwd", "http://h/x", "passwd"),  # CVE-2016-7067 and its kin
        (None, "..\\..\\evil.exe", "http://h/x", "evil.exe"),
        (None, None, "http://h/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "passwd"),
        (None, ".bashrc", "http://h/x", "bashrc"),  # never hidden
        (None, "..", "http://h/x.iso", "x.iso"),
        (None, "/", "http://h/x.iso", "x.iso"),
        (None, "übung – 日本.tar", "http://h/x", "übung – 日本.tar"),  # Unicode is kept
        (None, "a\x00b\nc.iso", "http://h/x", "abc.iso"),
    ],
)
def test_the_name_is_chosen_and_cleaned(asked, offered, url, name):
    assert planner.choose_name(asked, offered, url) == name


@given(st.text())
def test_what_a_server_offers_is_one_name_that_fits_a_directory(offered):
    name = planner.choose_name(None, offered, "http://h/x")
    assert name
    assert "/" not in name
    assert "\0" not in name
    assert not name.startswith(".")
    assert len(name.encode()) <= 255


@pytest.mark.parametrize(
    "output", ["/etc/passwd", "../x", "a/../../x", "", ".", "a/", "a\0b", "x" * 300, ".orchestrator/x"]
)
def test_a_name_that_leaves_the_volume_is_refused(output):
    with pytest.raises(BadName):
        planner.check_output(output)


@pytest.mark.parametrize(
    ("asked", "validator", "chunks", "clones", "layout"),
    [
        (LayoutName.AUTO, STRONG, 8, True, LayoutName.PARTS),  # joining costs nothing there
        (LayoutName.AUTO, STRONG, 8, False, LayoutName.SHARED),  # written once
        (LayoutName.AUTO, WEAK, 8, False, LayoutName.PARTS),  # two attempts might write different bytes
        (LayoutName.AUTO, STRONG, 1, False, LayoutName.PARTS),  # one part is the file
        (LayoutName.PARTS, STRONG, 8, False, LayoutName.PARTS),
        (LayoutName.SHARED, STRONG, 8, True, LayoutName.SHARED),
    ],
)
def test_the_layout_follows_the_volume_and_the_validator(asked, validator, chunks, clones, layout):
    assert planner.choose_layout(asked, validator=validator, chunks_count=chunks, clones=clones) is layout


def test_a_shared_file_needs_a_strong_validator():
    with pytest.raises(BadOption, match="strong ETag"):
        planner.choose_layout(LayoutName.SHARED, validator=WEAK, chunks_count=8, clones=False)


def test_parts_that_are_copied_need_the_space_twice():
    assert planner.needed_bytes(100, LayoutName.PARTS, chunks_count=2, clones=False) == 200
    assert planner.needed_bytes(100, LayoutName.PARTS, chunks_count=1, clones=False) == 100
    assert planner.needed_bytes(100, LayoutName.PARTS, chunks_count=2, clones=True) == 100
    assert planner.needed_bytes(100, LayoutName.SHARED, chunks_count=2, clones=False) == 100
