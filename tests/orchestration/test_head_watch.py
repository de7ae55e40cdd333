"""A Ray head that is gone: noticed in time, told in one line, and no process left waiting for it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from orchestration.cluster import head as head_watch
from orchestration.cluster.head import Head, check_cluster, leave_without_head
from orchestration.errors import ClusterLostError


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def address_of(server: socket.socket) -> str:
    return f"127.0.0.1:{server.getsockname()[1]}"


def test_silence_counts_from_the_first_question_that_nobody_answered(listener):
    clock = Clock()
    head = Head(address_of(listener), clock)
    assert head.silence() == 0
    listener.close()
    clock.now = 0.5
    assert head.silence() == 0, "asked at most once a second"
    for clock.now, expected in [(1.0, 0.0), (2.0, 1.0), (9.5, 8.5)]:
        assert head.silence() == expected


def test_a_head_that_answers_is_not_waited_for_and_one_that_does_not_is_given_up(listener):
    clock, address = Clock(), address_of(listener)
    assert Head(address, clock).wait(clock.sleep)
    assert clock.now == 0
    listener.close()
    silent = Head(address, clock)
    assert not silent.wait(clock.sleep)
    assert "refused" in str(silent.error)
    assert head_watch.SILENCE_S < clock.now <= head_watch.SILENCE_S + 2


def test_a_job_s_loop_is_told(listener, monkeypatch):
    clock, address = Clock(), address_of(listener)
    monkeypatch.setattr(head_watch, "_joined", Head(address, clock))
    monkeypatch.setattr(head_watch.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address=address))
    check_cluster()
    listener.close()
    for clock.now in (2.0, 2.0 + head_watch.SILENCE_S):
        check_cluster()
    clock.now += 1
    with pytest.raises(ClusterLostError, match="what is done is kept"):
        check_cluster()


def test_a_process_whose_main_thread_hangs_leaves(listener, monkeypatch, capsys):
    monkeypatch.setattr(head_watch, "ASK_EVERY_S", 0.01)
    clock, address, left = Clock(), address_of(listener), threading.Event()
    codes = []

    def leave(code):
        codes.append(code)
        left.set()

    with leave_without_head(Head(address, clock), leave):
        assert not left.wait(0.1)
        listener.close()
        while not left.wait(0.02):
            clock.now += 1
    assert codes == [4]
    assert clock.now > head_watch.SILENCE_S + head_watch.GRACE_S
    assert "has not answered" in capsys.readouterr().err
