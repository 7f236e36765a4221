"""What a process remembers of the jobs that it has completed."""

from __future__ import annotations

from tasks.completions import Completions
from tasks.records import NewJob
from tasks.transfer.manifest import JobSpec


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def add(completions: Completions, name: str) -> None:
    new = NewJob(name, "http://h/f", JobSpec(), "plain:{}")
    completions.add(new, created_at=1.0, destination="f", fields={})


def names(completions: Completions) -> list[str]:
    return [each.new.job_id for each in completions.recent()]


def test_what_is_two_minutes_old_is_forgotten():
    clock = Clock()
    completions = Completions(clock=clock)
    add(completions, "first")
    clock.seconds = 100
    add(completions, "second")
    assert names(completions) == ["first", "second"]
    clock.seconds = 130
    assert names(completions) == ["second"]
    add(completions, "third")
    assert names(completions) == ["second", "third"]


def test_of_many_the_last_are_remembered_each_once():
    completions = Completions(clock=Clock())
    for number in range(600):
        add(completions, str(number))
    add(completions, "599")
    assert names(completions) == [str(number) for number in range(100, 600)]
