from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tasks.rates import connections_of
from tasks.transfer.manifest import JobSpec
from tasks.transfer.rates import parse_rate, parse_size

MIB = 1024 * 1024
MONDAY = datetime(2026, 11, 23)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("50M", 50 * MIB),
        ("512k", 512 * 1024),
        ("1.5MiB", 3 * MIB // 2),
        ("2M/s", 2 * MIB),
        ("1000", 1000),  # bytes, as everywhere here
        ("off", None),
        ("OFF", None),
        ("0", None),
    ],
)
def test_a_rate_alone_always_holds(text, rate):
    assert {parse_rate(text).at(MONDAY + timedelta(hours=hour)) for hour in range(7 * 24)} == {rate}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        (" ,; ", "empty"),
        ("fast", "'fast' is not a rate such as"),
        ("-5M", "not a rate"),
        ("08:00", "not a rate"),
        ("1e400", "not a rate"),
        ("08:00 50M, 18:00", "time and a rate in turn"),
        ("50M 08:00", "'50M' is not a time such as"),
        ("24:00 50M", "not a time"),
        ("08:60 50M", "not a time"),
        ("Xyz-08:00 50M", "not a time"),
        ("08:00 fast", "not a rate"),
        ("٠٨:٠٠ 50M", "not a time"),  # digits, but not ours
    ],
)
def test_nonsense_is_told(text, why):
    with pytest.raises(ValueError, match=why):
        parse_rate(text)


@pytest.mark.parametrize(
    "text",
    ["08:00 50M, 18:00 off", "08:00,50M 18:00,off", "8:00 50M;18:00 off", "18:00 0, 08:00 50M"],
)
def test_a_timetable_holds_from_one_time_to_the_next_across_midnight(text):
    table = parse_rate(text)
    for hours, minutes, rate in [
        (0, 0, None),  # yesterday's last
        (7, 59, None),
        (8, 0, 50 * MIB),
        (17, 59, 50 * MIB),
        (18, 0, None),
        (23, 59, None),
    ]:
        for day in range(7):
            assert table.at(MONDAY + timedelta(days=day, hours=hours, minutes=minutes)) == rate


def test_a_timetable_may_name_days_and_goes_round_the_week():
    table = parse_rate("Mon-08:00 10M, friday-18:30 off, Sun-20:00 1M")
    for day, hours, minutes, rate in [
        (0, 7, 59, MIB),  # Sunday's
        (0, 8, 0, 10 * MIB),
        (3, 3, 0, 10 * MIB),
        (4, 18, 29, 10 * MIB),
        (4, 18, 30, None),
        (6, 19, 59, None),
        (6, 20, 0, MIB),
    ]:
        assert table.at(MONDAY + timedelta(days=day, hours=hours, minutes=minutes)) == rate


def test_what_is_said_of_a_day_goes_before_what_is_said_of_all():
    for text in ("08:00 1M, Sat-08:00 off", "Sat-08:00 off, 08:00 1M"):
        table = parse_rate(text)
        assert table.at(MONDAY + timedelta(days=5, hours=12)) is None
        assert table.at(MONDAY + timedelta(days=4, hours=12)) == MIB


def test_a_clock_that_is_put_forward_or_back_is_taken_at_its_word():
    table = parse_rate("02:30 1M, 04:00 off")
    zone = ZoneInfo("Europe/Berlin")

    def rates(first, hours):
        """What holds each half hour, from a moment on."""
        moments = [
            first.astimezone(ZoneInfo("UTC")) + timedelta(minutes=30 * each) for each in range(hours * 2)
        ]
        return [(f"{there:%H:%M}", table.at(there)) for there in (each.astimezone(zone) for each in moments)]

    # 02:30 never comes on this day: it holds from 03:00 on.
    assert rates(datetime(2026, 3, 29, 1, 30, tzinfo=zone), 2) == [
        ("01:30", None), ("03:00", MIB), ("03:30", MIB), ("04:00", None),
    ]  # fmt: skip
    # And here it comes twice.
    assert rates(datetime(2026, 10, 25, 2, 0, tzinfo=zone), 3) == [
        ("02:00", None), ("02:30", MIB), ("02:00", None), ("02:30", MIB), ("03:00", MIB), ("03:30", MIB),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rate", "connections"),
    [
        (None, None),  # as many as it may have
        ("off", None),
        ("100k", 1),
        ("1M", 8),
        ("08:00 1M, 18:00 off", None),
        ("08:00 off, 18:00 1M", 8),
    ],
)
def test_a_job_of_a_low_rate_has_use_for_few_connections(rate, connections):
    assert connections_of(rate, lambda: MONDAY + timedelta(hours=20)) == connections


def test_a_spec_takes_no_limit_for_none_and_refuses_nonsense():
    assert JobSpec(limit_rate="off").limit_rate is None
    assert JobSpec(limit_rate="08:00 0, 18:00 off").limit_rate is None
    assert JobSpec(limit_rate="08:00 1M, 18:00 off").limit_rate == "08:00 1M, 18:00 off"
    with pytest.raises(ValueError, match="not a rate"):
        JobSpec(limit_rate="fast")


def test_a_size_is_read_as_the_options_write_it():
    assert parse_size(" 1.5 GiB ") == 3 * 512 * MIB
