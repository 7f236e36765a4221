import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.transfer.ranges import ByteRange, nth, parse_content_range, parse_unsatisfied_range


@pytest.mark.parametrize(
    ("header", "carried", "size"),
    [
        ("bytes 0-499/1234", ByteRange(0, 500), 1234),
        ("bytes 734-1233/1234", ByteRange(734, 1234), 1234),  # the last part
        ("Bytes 0-0/1", ByteRange(0, 1), 1),  # range units compare without case
        ("bytes 0-499/*", ByteRange(0, 500), None),  # size unknown to the server
    ],
)
def test_content_range_gives_the_half_open_range_and_the_size(header, carried, size):
    assert parse_content_range(header) == (carried, size)


@pytest.mark.parametrize(
    "header",
    [
        "",  # a 206 without the header
        "bytes */1234",  # belongs to a 416
        "bytes 5-4/10",  # ends before it starts
        "bytes 0-10/10",  # past the size it states
        "items 0-4/10",  # another unit
        "bytes 0-4",  # no size
        "bytes -4/10",
        "bytes 0-4/10, 6-8/10",
        "bytes 0-٤/10",  # digits that only Python takes for digits
        "bytes 0-99999999999999999999/100000000000000000000",  # beyond any file
    ],
)
def test_what_is_not_a_satisfied_range_is_refused(header):
    with pytest.raises(ValueError, match="range"):
        parse_content_range(header)


@given(st.text())
def test_no_header_breaks_the_parser(header):
    try:
        carried, size = parse_content_range(header)
    except ValueError:
        return
    assert carried.start < carried.stop
    assert size is None or carried.stop <= size


@given(st.integers(1, 10**7), st.integers(1, 10**6))
def test_ranges_cover_the_file_once_and_in_order(size, each):
    count = -(-size // each)
    if count > 2000:
        return
    offset = 0
    for number in range(count):
        part = nth(number, size, each)
        assert part.start == offset
        assert part.length_bytes == each or number == count - 1
        offset = part.stop
    assert offset == size


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (5, 4), (-1, 3)])
def test_an_empty_or_backward_range_cannot_exist(start, stop):
    with pytest.raises(ValueError, match="not a byte range"):
        ByteRange(start, stop)


def test_http_spells_both_ends_inclusive():
    assert ByteRange(0, 500).to_header() == "bytes=0-499"
    assert ByteRange(499, 500).to_header() == "bytes=499-499"


@pytest.mark.parametrize(
    ("header", "size"), [("bytes */0", 0), ("bytes */1234", 1234), ("bytes 0-1/2", None), ("", None)]
)
def test_a_416_may_state_the_size(header, size):
    assert parse_unsatisfied_range(header) == size
