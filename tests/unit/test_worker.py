import pytest

from orchestrator.worker import slots_of_processes


@pytest.mark.parametrize(
    ("concurrency", "wanted", "processors", "slots"),
    [
        (16, None, 2, [8, 8]),
        (16, None, 64, [4, 4, 4, 4]),
        (16, None, 3, [6, 5, 5]),
        (7, None, 2, [7]),
        (1, None, 2, [1]),
        (64, None, 1, [64]),
        (3, 2, 64, [2, 1]),
        (1, 2, 64, [1]),
    ],
)
def test_each_processor_has_a_process_that_has_enough_to_do(concurrency, wanted, processors, slots):
    assert slots_of_processes(concurrency, wanted, processors=processors) == slots


def test_the_system_says_how_many_processors_there_are():
    assert sum(slots_of_processes(1024, None)) == 1024
