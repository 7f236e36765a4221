"""The supervisor, with children that are no processes."""

import os

import pytest

from orchestrator.processes import Service, Supervisor


class Ended:
    pid = 0

    def poll(self):
        return 1

    def terminate(self):
        pass

    def kill(self):
        pass


class Running(Ended):
    code = None

    def poll(self):
        return self.code

    def terminate(self):
        self.code = 0


@pytest.fixture
def parent_pipe():
    receiver, sender = os.pipe()
    os.close(sender)  # its end asks to end: after one look at the services
    yield receiver
    os.close(receiver)


def test_only_what_ended_by_itself_has_its_own_consequence(parent_pipe):
    told = []
    services = [
        Service("worker", Running, after_death=lambda: told.append("worker")),
        Service("flower", Ended, after_death=lambda: told.append("flower")),
    ]
    Supervisor(services, grace_seconds=1).run(parent_pipe=parent_pipe)
    assert told == ["flower"]
