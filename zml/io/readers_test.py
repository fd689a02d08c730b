import errno
import threading
import time
from collections import deque

import pytest

from zml.errors import CancelledError
from zml.io.progress import LoadReport, Progress
from zml.io.readers import Climb, Readers, Work
from zml.vfs import Cancellation


def _climb(rates: dict[int, float], start: int, most: int, samples: int = 40) -> Climb:
    climb = Climb(start, most)
    for _ in range(samples):
        climb.observe(rates[min(climb.count, max(rates))])
    return climb


def test_more_readers_while_that_is_faster() -> None:
    climb = _climb({n: float(n) for n in range(1, 33)}, 2, 24, samples=12)
    assert climb.count == 24


def test_no_more_than_what_was_best() -> None:
    # From 4 on it is no faster: 6 is tried now and then, and left again.
    rates = {n: float(min(n, 4)) for n in range(1, 33)}
    climb = Climb(4, 24)
    counts = []
    for _ in range(40):
        counts.append(climb.observe(rates[climb.count]))
    assert max(counts) == 6 and counts.count(4) > 30


def test_the_start_is_within_the_bounds() -> None:
    assert Climb(8, 3).count == 3


def _run(
    works: list[Work], start: int = 2, most: int = 4, cancel: Cancellation | None = None
) -> Readers:
    readers = Readers(deque(works), start, most, done=lambda: 0, tick=lambda: None)
    readers.run(cancel)
    return readers


def test_every_work_is_done_once_and_nothing_is_kept() -> None:
    done: list[int] = []
    works: list[Work] = [lambda _, i=i: done.append(i) for i in range(100)]  # type: ignore[misc]
    queue = deque(works)
    readers = Readers(queue, 3, 3, done=lambda: 0, tick=lambda: None)
    readers.run()
    assert sorted(done) == list(range(100)) and not queue
    assert 1 <= readers.most <= 3
    assert _run([]).most == 0


def test_the_error_that_came_first_is_raised() -> None:
    failed = threading.Event()

    def waits(cancellation: Cancellation) -> None:
        failed.wait(10)
        cancellation.wait(60)

    def consequence(cancellation: Cancellation) -> None:
        failed.wait(10)
        while not cancellation.cancelled:
            time.sleep(0.001)
        raise ValueError("since it was cancelled")

    def fails(_: Cancellation) -> None:
        failed.set()
        raise KeyError("first")

    never: list[int] = []
    rest: list[Work] = [lambda _: never.append(1)] * 50
    with pytest.raises(KeyError, match="first"):
        _run([waits, consequence, fails, *rest], start=3, most=3)
    assert not never


def test_an_exception_where_it_is_waited_for_ends_the_readers() -> None:
    ended = threading.Event()

    def waits(cancellation: Cancellation) -> None:
        try:
            cancellation.wait(60)
        finally:
            ended.set()

    def tick() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Readers(deque([waits]), 1, 1, done=lambda: 0, tick=tick).run()
    assert ended.is_set()


def test_cancelling_from_outside() -> None:
    cancellation = Cancellation()

    def cancels(_: Cancellation) -> None:
        cancellation.cancel()

    never: list[int] = []
    with pytest.raises(CancelledError):
        _run([cancels, lambda _: never.append(1)], start=1, most=1, cancel=cancellation)
    assert not never


def test_a_system_without_threads_says_so_and_loses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    real = threading.Thread.start
    started: list[threading.Thread] = []

    def start(thread: threading.Thread) -> None:
        if thread.name == "zml-load" and started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        _run([lambda cancellation: cancellation.wait(60)] * 4, start=2, most=2)
    assert not started[0].is_alive()


def test_a_terminal_that_is_gone_ends_no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(_Terminal):
        def write(self, text: str) -> None:
            raise OSError(errno.EIO, "Input/output error")

    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    bar = Progress(100, LoadReport(), Gone())  # type: ignore[arg-type]
    now[0] = 5.0
    for _ in range(2):
        bar.draw()
    bar.clear()


class _Terminal:
    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def test_the_bar_shows_what_is_read_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    out, report = _Terminal(), LoadReport()
    bar = Progress(4 << 20, report, out)  # type: ignore[arg-type]
    now[0] = 0.5
    bar.read(1 << 20)
    bar.draw()
    bar.clear()
    assert out.text == ""  # not for what is done in a moment
    now[0] = 2.0
    bar.draw()
    assert "[=======>" in out.text
    assert out.text.endswith(" 25% of 4.00MiB, 512.00KiB/s, 6s left")
    assert (report.bytes_read, report.first_byte_seconds) == (1 << 20, 0.5)
    bar.clear()
    assert out.text.endswith("\r\x1b[K")
    nowhere = Progress(1, LoadReport(), None)
    now[0] = 9.0
    nowhere.draw()
    nowhere.clear()


def test_reports_divide_by_what_was_needed() -> None:
    assert LoadReport().overread == 1
    assert LoadReport(bytes_needed=100, bytes_read=102).overread == 1.02
