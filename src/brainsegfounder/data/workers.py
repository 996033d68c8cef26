"""Processes that make batches ahead of time; the death or hang of one is named, and mended once.

Workers share nothing: each has a pipe of its own, so the end of one cannot block another, and is
noticed as the end of its pipe. Which worker makes which batch follows from the batch's place, and
what a batch is from its number; so a worker that takes another's place loses and repeats nothing.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import multiprocessing
import multiprocessing.util
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Generator, MutableSequence, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import _TemporaryFileWrapper
from typing import Any

import torch

from brainsegfounder.data.parcels import Parcel, opened, receive_parcel, send_parcel
from brainsegfounder.errors import TrainingError

log = logging.getLogger(__name__)

Announce = Callable[[int], None]
"""Told which case is read next, by its place among all."""
Make = Callable[[int, Announce], Parcel]
"""Makes a batch by its number."""

# Batches that each worker is ahead.
AHEAD = 2
# A worker that has not moved on to another case for so long, while we wait for it, hangs.
PATIENCE_S = 60.0
# After so many batches a mended worker is forgotten, and another may be mended.
FORGIVEN_AFTER = 100
POLL_S = 0.25
SECONDS_TO_DUMP = 1.0
SECONDS_BETWEEN_LOOKS = 5.0
NO_CASE = -1
STATES = {"T": "it was stopped by a signal", "D": "it waits for a disk or the network"}


class _TroubleError(Exception):
    """A worker died or hangs; says how."""


def made_ahead(
    make: Make,
    wanted: Sequence[int],
    *,
    num_workers: int,
    name_of: Callable[[int], str],
    patience_s: float = PATIENCE_S,
) -> Generator[dict[str, Any], None, None]:
    """Make batches in other processes, a few ahead of what is asked for.

    Args:
        make: A pure function of a batch's number; where processes are spawned it is pickled.
        wanted: Numbers of the batches, in order.
        num_workers: How many processes.
        name_of: Name of a case that was announced.
        patience_s: How long a worker may be at one case while we wait for it.

    Yields:
        Each batch, assembled.

    Raises:
        TrainingError: A worker died or hung for the second time within a hundred batches; names
            the case that it was reading.
        Exception: What `make` raised.
    """
    crew = _Crew(make, wanted, num_workers, name_of, patience_s)
    try:
        for place in range(len(wanted)):
            yield crew.take(place)
    finally:
        crew.end()


class _Crew:
    """All workers, and what each is asked for."""

    def __init__(
        self,
        make: Make,
        wanted: Sequence[int],
        num_workers: int,
        name_of: Callable[[int], str],
        patience_s: float,
    ) -> None:
        self.make, self.wanted = make, wanted
        self.name_of, self.patience_s = name_of, patience_s
        self.mended_at: int | None = None
        self.workers: list[_Worker] = []
        num_workers = min(num_workers, len(wanted))
        for number in range(num_workers):
            self.workers.append(_Worker(make, number))
        for place in range(num_workers * AHEAD):
            self._ask(place)

    def take(self, place: int) -> dict[str, Any]:
        """The batch at a place."""
        worker = self.workers[place % len(self.workers)]
        try:
            batch = worker.take(self.patience_s)
        except _TroubleError as trouble:
            self._mend(place, worker, str(trouble))
            return self.take(place)
        self._ask(place + len(self.workers) * AHEAD)
        return batch

    def end(self) -> None:
        """End all workers; they have nothing to lose."""
        for worker in self.workers:
            worker.end()

    def _ask(self, place: int) -> None:
        if place < len(self.wanted):
            self.workers[place % len(self.workers)].ask(self.wanted[place])

    def _mend(self, place: int, worker: _Worker, trouble: str) -> None:
        """Put another worker in its place, once."""
        case = worker.reading()
        at = f"case '{self.name_of(case)}'" if case != NO_CASE else "no case"
        said = f"data worker {worker.number} (process {worker.process.pid}) {trouble}; it read {at}"
        worker.end()
        if self.mended_at is not None and place - self.mended_at < FORGIVEN_AFTER:
            raise TrainingError(
                f"{said}. It is the second time within {FORGIVEN_AFTER} batches; expected workers "
                "that live. Lower num_workers or batch_size if memory ran out; else look at that "
                "case and its disk. Then go on with --resume."
            )
        log.warning("%s. Starting another one; no batch is lost.", said)
        self.mended_at = place
        count = len(self.workers)
        self.workers[place % count] = _Worker(self.make, worker.number)
        for again in range(place, place + count * AHEAD, count):
            self._ask(again)


class _Worker:
    """A process, the pipe to it, and what it says that it does."""

    def __init__(self, make: Make, number: int) -> None:
        context = multiprocessing.get_context()
        self.number = number
        # How many cases were announced, and the last of them.
        self.slate: MutableSequence[int] = context.RawArray("q", [0, NO_CASE])
        self.stack = _new_stack_file()
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_serve,
            args=(make, theirs, self.pipe, self.slate, self.stack and self.stack.name),
            name=f"data worker {number}",
            daemon=True,
        )
        self.process.start()
        theirs.close()
        # At the exit of this process, before multiprocessing waits for those that cannot end.
        self._kill_at_exit = multiprocessing.util.Finalize(
            self, _kill, args=(self.process,), exitpriority=10
        )

    def ask(self, number: int) -> None:
        """Ask for a batch; if the worker died meanwhile, `take` will tell."""
        with contextlib.suppress(OSError):
            self.pipe.send(number)

    def take(self, patience_s: float) -> dict[str, Any]:
        """The next batch that was asked for.

        Raises:
            _TroubleError: The worker died or hangs.
            Exception: What the worker raised.
        """
        try:
            received = receive_parcel(self.pipe, lambda: self._await(patience_s))
        except (EOFError, OSError) as error:
            self.process.join(SECONDS_TO_DUMP)
            raise _TroubleError(_ending(self.process.exitcode)) from error
        if isinstance(received, BaseException):
            raise received
        return opened(received)

    def reading(self) -> int:
        """The case that it announced last, or `NO_CASE` where it reads none."""
        return self.slate[1]

    def end(self) -> None:
        """End it, whatever it does."""
        self._kill_at_exit()
        self.pipe.close()
        if self.stack:
            self.stack.close()

    def _await(self, patience_s: float) -> None:
        """Wait for a message or the worker's end.

        Time is counted in pieces: if we were stopped ourselves, that is not the worker's fault.
        """
        waited_s, announced = 0.0, self.slate[0]
        while not self.pipe.poll(POLL_S):
            waited_s = waited_s + POLL_S if self.slate[0] == announced else 0.0
            announced = self.slate[0]
            if waited_s >= patience_s:
                state = _state(self.process.pid)
                self._dump_stack()
                raise _TroubleError(f"has not moved for {waited_s:.0f} s{state}")

    def _dump_stack(self) -> None:
        """Log where in the code it hangs; one that is stopped cannot say."""
        if self.stack is None or self.process.pid is None:
            return
        with contextlib.suppress(OSError):
            os.kill(self.process.pid, signal.SIGUSR2)
            time.sleep(SECONDS_TO_DUMP)
            stack = Path(self.stack.name).read_text(encoding="utf-8", errors="replace")
            log.warning("stack of data worker %d:\n%s", self.number, stack or "(it does not say)")


def _kill(process: BaseProcess) -> None:
    process.kill()
    process.join()


def _ending(exit_code: int | None) -> str:
    """How a process ended, in words."""
    if exit_code is None:
        return "closed its pipe"
    if exit_code >= 0:
        return f"ended with code {exit_code}"
    name = signal.Signals(-exit_code).name
    hints = {
        "SIGKILL": ", as systems do that run out of memory",
        "SIGBUS": ", as happens where a file is cut short or its disk fails",
    }
    return f"was ended by {name}{hints.get(name, '')}"


def _state(pid: int | None) -> str:
    """What Linux says that a process is doing, where that explains something."""
    with contextlib.suppress(OSError, IndexError):
        letter = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        return f" ({STATES[letter]})" if letter in STATES else ""
    return ""


def _new_stack_file() -> _TemporaryFileWrapper[bytes] | None:
    """Where a worker writes its stack when asked, or None where it cannot."""
    if not hasattr(faulthandler, "register"):
        return None
    try:
        return tempfile.NamedTemporaryFile(prefix="brainsegfounder-stack-")
    except OSError:
        return None


def _serve(
    make: Make,
    pipe: Connection,
    parents_end: Connection,
    slate: MutableSequence[int],
    stack_file: str | None,
) -> None:
    """What a worker does until there is nothing more to do."""
    parents_end.close()  # a fork has a copy, and would never see the end of its own pipe
    _heed_signals(stack_file)
    # Threads of the parent do not exist here, and OpenMP would wait for them.
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid is None:
        return
    try:
        while parent.is_alive():
            if pipe.poll(SECONDS_BETWEEN_LOOKS):
                _make_one(make, pipe, slate, parent.pid)
    except (EOFError, ConnectionError):
        return  # the parent has nothing more for us


def _make_one(make: Make, pipe: Connection, slate: MutableSequence[int], parent: int) -> None:
    """Make the batch that is asked for, or say why it cannot be made."""

    def announce(case: int) -> None:
        slate[1] = case
        slate[0] += 1

    number = pipe.recv()
    try:
        parcel = make(number, announce)
        slate[1] = NO_CASE
        send_parcel(pipe, parcel, parent)
    except ConnectionError:
        raise
    except Exception as error:
        pipe.send(_portable(error))


def _portable(error: Exception) -> Exception:
    """The error as another process can have it, with the place where it was raised."""
    kind = type(error)
    if kind.__module__ != "builtins" and not kind.__module__.startswith("brainsegfounder."):
        error = RuntimeError(f"{kind.__name__}: {error}")
    error.add_note(f"In a data worker:\n{traceback.format_exc()}")
    return error


def _heed_signals(stack_file: str | None) -> None:
    """Leave to the parent what is meant for all processes of a job; tell the stack when asked."""
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if stack_file is not None:
        file = Path(stack_file).open("w", encoding="utf-8")  # noqa: SIM115, open for life
        faulthandler.register(signal.SIGUSR2, file=file, all_threads=True)
