"""The board: when a process is well, and what it has counted."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field

import pytest

from orchestrator.board import Board
from orchestrator.processes import Forked, Service
from support.tools import wait_until
from tasks import metrics
from tasks.metrics import Count


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Child:
    pid: int

    def poll(self) -> int | None:
        return None


@dataclass
class Scene:
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.service = Service("chunks-1", lambda: Child(0))
        self.board = Board(["chunks-1"], clock=self.clock)

    def run(self, pid: int | None, seconds: float = 0.0) -> None:
        """Have so many seconds pass, with a process of this id at the end of them, or without any."""
        for _ in range(int(seconds)):
            self.clock.now += 1
            self.board.note([self.service])
            if self.service.child is not None:
                self.beat()
        self.service.child = Child(pid) if pid else None
        self.board.note([self.service])

    def beat(self) -> None:
        self.board._beat(1, {})

    @property
    def problem(self) -> str | None:
        return self.board.vitals()[1].problem


def test_a_process_that_beats_is_well():
    scene = Scene()
    scene.run(11)
    scene.run(11, 100)
    assert [each.problem for each in scene.board.vitals()] == [None, None]
    assert [each.pid for each in scene.board.vitals()] == [os.getpid(), 11]


def test_a_process_that_does_not_beat_is_not_well_before_30_seconds_are_over():
    scene = Scene()
    scene.run(11)
    scene.clock.now += 15
    assert scene.problem is None  # a busy machine
    scene.clock.now += 10
    assert scene.problem == "has stood still for 25 s"
    assert scene.board.vitals()[0].problem == "has stood still for 25 s"  # the supervisor did not look either
    scene.beat()
    assert scene.problem is None


def test_a_process_that_is_back_after_a_crash_was_well_all_the_time():
    scene = Scene()
    scene.run(11)
    scene.run(None, 10)
    assert scene.problem is None
    scene.run(12, 2)
    for _ in range(6):
        scene.run(12, 10)
        assert scene.problem is None
    assert scene.board.vitals()[1].starts_count == 2


def test_a_process_that_ends_again_and_again_is_not_well_until_it_stays():
    scene = Scene()
    scene.run(11)
    scene.run(None, 60)
    for pid in (12, 13, 14, 15):
        scene.run(pid, 8)
        scene.run(None, 2)
    assert scene.problem == "ends again and again, for 40 s"
    scene.run(16, 1)
    scene.run(16, 12)
    assert scene.problem is None


def test_a_process_that_stays_away_is_not_well():
    scene = Scene()
    scene.run(11)
    scene.run(None)
    scene.run(None, 31)
    assert scene.problem is not None


def test_a_process_that_lost_a_vital_thread_is_not_well():
    scene = Scene()
    scene.run(11)
    is_over = threading.Event()
    thread = threading.Thread(target=is_over.wait, name="watch")
    thread.start()
    seen = {"watch": 0}
    scene.board._beat(1, seen)
    assert scene.problem is None
    is_over.set()
    thread.join()
    scene.board._beat(1, seen)
    assert scene.problem == "has lost a thread"


@pytest.mark.parametrize("is_killed", [False, True])
def test_what_a_child_counts_is_read_by_its_parent_and_gone_on_with_by_the_next(is_killed):
    board = Board(["chunks-1"])

    def child() -> None:
        board.enter("chunks-1")
        metrics.brought("http://a:80", 1000)
        threading.Event().wait()

    def total() -> float:
        return metrics.merged(board.texts()).numbers().get((Count.BYTES, "http://a:80"), 0)

    for count in (1, 2, 3):
        process = Forked("chunks-1", child)
        try:
            wait_until(lambda: total() == 1000 * count, what="the count")  # noqa: B023
        finally:
            (process.kill if is_killed else process.terminate)()
            wait_until(lambda: process.poll() is not None, what="the child's end")  # noqa: B023
