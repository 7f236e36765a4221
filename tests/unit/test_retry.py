import pytest

from tasks.transfer.retry import RetryPolicy


def longest(low, high):
    return high


def shortest(low, high):
    return low


@pytest.mark.parametrize(
    ("fruitless", "seconds"),
    [
        (0, 0.5),  # it brought bytes: again at once, or nearly
        (1, 0.5),
        (2, 1.0),
        (3, 2.0),
        (7, 30.0),  # the cap
        (8, None),  # the budget
        (9, None),
    ],
)
def test_backoff_doubles_up_to_its_cap_and_ends_with_the_budget(fruitless, seconds):
    assert RetryPolicy().delay_seconds(fruitless, retry_after_seconds=None, uniform=longest) == seconds


def test_jitter_is_full_so_that_a_fleet_does_not_come_back_together():
    assert RetryPolicy().delay_seconds(5, retry_after_seconds=None, uniform=shortest) == 0.0


def test_retry_after_is_obeyed_up_to_the_longest_wait():
    policy = RetryPolicy(max_wait_seconds=60)
    assert policy.delay_seconds(1, retry_after_seconds=60, uniform=shortest) == 60
    assert policy.delay_seconds(1, retry_after_seconds=61, uniform=shortest) is None
    assert policy.delay_seconds(8, retry_after_seconds=1, uniform=shortest) is None
