"""Work spread over processes, where the death of one costs only what it was doing.

The pools of the standard library give everything up when one worker is killed, as the system does
that runs out of memory. Here its item is reported as lost, and another worker takes its place.
Workers are spawned, hold one item each, and end with their parent, however it ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Generic, TypeVar

from brainsegfounder.errors import RunError

Item = TypeVar("Item")
Result = TypeVar("Result")

_READY = "ready"
SECONDS_TO_END = 5.0


@dataclass(frozen=True, slots=True)
class Lost:
    """What became of an item whose worker died.

    Attributes:
        exit_code: Of the worker; negative is the number of the signal that killed it.
    """

    exit_code: int

    def __str__(self) -> str:
        if self.exit_code >= 0:
            return f"the process that worked on it ended with code {self.exit_code}"
        name = signal.Signals(-self.exit_code).name
        why = ", as systems do that run out of memory" if name == "SIGKILL" else ""
        return f"the process that worked on it was ended by {name}{why}"


def work_in_processes(
    work: Callable[[Item], Result], items: Sequence[Item], num_workers: int
) -> Iterator[tuple[int, Result | Lost]]:
    """Do some work on each item; results come as they are ready.

    Args:
        work: A function of a module, so that other processes find it. It should raise nothing.
        items: On what; no more than `num_workers` are in work at any time.
        num_workers: How many processes; no more are started than there are items.

    Yields:
        Number of the item, and its result or that it was lost.

    Raises:
        RunError: A worker cannot be started.
    """
    waiting = deque(range(len(items)))
    workers: list[_Worker[Item, Result]] = []
    try:
        while waiting or any(worker.item is not None for worker in workers):
            idle = [worker for worker in workers if worker.item is None]
            for worker in idle:
                if waiting and worker.is_ready:
                    number = waiting.popleft()
                    worker.give(number, items[number])
            starting = sum(not worker.is_ready for worker in workers)
            if len(workers) < num_workers and starting < len(waiting):
                workers.append(_Worker(work))
                continue
            for worker in _woken(workers):
                at_work_on = worker.item
                answer = worker.answer()
                if isinstance(answer, Lost):
                    workers.remove(worker)
                if at_work_on is not None:
                    yield at_work_on, answer
    finally:
        _end(workers)


class _Worker(Generic[Item, Result]):
    """A process and the pipe to it."""

    def __init__(self, work: Callable[[Item], Result]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(
            target=_serve, args=(work, theirs), daemon=True
        )
        try:
            with _without_interrupts():
                self.process.start()
        except OSError as error:
            raise _no_start(error) from error
        finally:
            theirs.close()
        self.is_ready = False
        self.item: int | None = None

    def give(self, number: int, item: Item) -> None:
        """Hand it an item; if it died meanwhile, `answer` will tell."""
        self.item = number
        try:
            self.pipe.send(item)
        except OSError:
            return

    def answer(self) -> Any:
        """What it says: that it is ready, a result, or that it died."""
        try:
            said = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            lost = Lost(self.process.exitcode or 0)
            if not self.is_ready:
                raise _no_start(lost) from None
            return lost
        if not self.is_ready:
            self.is_ready = True
            return said
        self.item = None
        return said


def _no_start(why: object) -> RunError:
    return RunError(
        f"a worker process could not start ({why}). Lower --jobs; a script of your own needs "
        '`if __name__ == "__main__":` around its call.'
    )


def _woken(workers: Sequence[_Worker[Item, Result]]) -> list[_Worker[Item, Result]]:
    """Workers that have something to say; a dead one's pipe says so too."""
    pipes: dict[Any, _Worker[Item, Result]] = {
        worker.pipe: worker for worker in workers if worker.item is not None or not worker.is_ready
    }
    return [pipes[pipe] for pipe in wait(list(pipes))]


def _end(workers: Sequence[_Worker[Item, Result]]) -> None:
    for worker in workers:
        if worker.item is None:
            worker.pipe.close()  # it waits for an item, and ends when none can come
        else:
            worker.process.terminate()
    for worker in workers:
        worker.process.join(SECONDS_TO_END)
        if worker.process.exitcode is None:
            worker.process.kill()
            worker.process.join()


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Hold Ctrl-C back; a process started meanwhile inherits this until it can deal with it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(work: Callable[[Any], Any], pipe: Connection) -> None:
    """What a worker does until there is nothing more to do."""
    # Ctrl-C reaches every process of the terminal; the parent decides what follows.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # An exception, so that what is half written is removed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        pipe.send(_READY)
        while True:
            pipe.send(work(pipe.recv()))
    except (EOFError, OSError):
        return  # the parent has nothing more for us


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
