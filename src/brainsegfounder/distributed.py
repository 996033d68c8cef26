"""Several processes that train one model: who am I, and what do all of us have together?

The only reader of what a launcher (torchrun, on one machine or under Slurm) sets in the
environment. On one process everything here does nothing. Gradients are averaged over the processes;
so what a process minimises must average to what one process would minimise with all their batches
joined (`share`, `gather`). Whoever meets the others must do so on every process, in the same order:
so validation runs `alone`, and only its results are brought together.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from brainsegfounder.errors import Interrupted, TrainingError, UsageError

log = logging.getLogger(__name__)

# How long a process waits for the others, who may be writing to a slow disk or scoring a case more.
PATIENCE = timedelta(minutes=30)
# How often a process asks whether another has failed, and how long it has to end by itself then.
ASK_EVERY_S, GRACE_S = 2.0, 10.0

_alone: ContextVar[bool] = ContextVar("alone", default=False)


@dataclass(frozen=True, slots=True)
class World:
    """Which process this is.

    Attributes:
        rank: Its number among all, from 0.
        local_rank: Its number on its machine.
        size: How many there are.
        attempt: How often the launcher has started all of them again after one failed.
    """

    rank: int = 0
    local_rank: int = 0
    size: int = 1
    attempt: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0


def world() -> World:
    """This process among all, by what its launcher has set."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT")
    found = (os.environ.get(name, "") for name in names)
    rank, local_rank, size, attempt = (int(n) if n.isdigit() else 0 for n in found)
    return World(rank, local_rank, max(1, size), attempt)


def slurm_job() -> str | None:
    """The number of the Slurm job that this process belongs to, or None."""
    return os.environ.get("SLURM_JOB_ID") or None


def environment_of_a_run(threads: int, gpu: int | None = None) -> dict[str, str]:
    """The environment of a run that is a process of its own, beside others on this machine.

    Args:
        threads: As many it computes with, unless OMP_NUM_THREADS says otherwise already.
        gpu: The only one it sees; None: as this process.
    """
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    return environment if gpu is None else {**environment, "CUDA_VISIBLE_DEVICES": str(gpu)}


@contextlib.contextmanager
def joined() -> Iterator[World]:
    """Find the other processes, and part from them at the end.

    Where one fails, the others are told, and end within seconds, whatever they are waiting for.

    Raises:
        UsageError: The launcher has not said where the processes meet, or there are more of them
            on this machine than GPUs.
        TrainingError: Another process has failed.
    """
    me = world()
    if me.size == 1:
        yield me
        return
    alarm = _find_others(me)
    try:
        yield me
        wait()
        dist.destroy_process_group()
    except Interrupted:  # all of us stop after the same step
        dist.destroy_process_group()
        raise
    except BaseException as error:  # to part now could be to wait for what others never send
        first = alarm.first()
        if first is None:
            alarm.ring(error)
            raise
        raise TrainingError(f"process {me.rank} ends, since another failed: {first}") from None
    finally:
        alarm.stop()


def is_joined() -> bool:
    """Whether this process is one of several that have found each other, and acts with them."""
    return not _alone.get() and _has_found_others()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Act as if there were no other process; what is computed is not brought together."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def rank() -> int:
    """This process's number among those it is joined with."""
    return dist.get_rank() if is_joined() else 0


def num_processes() -> int:
    """How many processes this one is joined with, itself among them."""
    return dist.get_world_size() if is_joined() else 1


def share(total: Tensor, count: Tensor) -> Tensor:
    """This process's share of a mean over all processes.

    The mean of the shares is the sum of all totals over the sum of all counts, whatever the counts.

    Args:
        total: Sum over this process's elements; carries gradients.
        count: How many elements these are; 0 everywhere gives 0.
    """
    if not is_joined():
        return total / count.clamp_min(1)
    everyone = count.detach().clone()
    dist.all_reduce(everyone)
    return total * dist.get_world_size() / everyone.clamp_min(1)


def gather(rows: Tensor) -> Tensor:
    """Rows of all processes, in the order of their ranks; gradients flow back to each.

    Args:
        rows: Shape (N, ...), of the same N on each process.

    Returns:
        Shape (N times processes, ...).
    """
    gathered: Tensor = _Gather.apply(rows) if is_joined() else rows  # type: ignore[no-untyped-call]
    return gathered


def means(values: Mapping[str, float]) -> dict[str, float]:
    """The mean of each value over all processes; not a number where one process has none."""
    if not is_joined():
        return dict(values)
    row = torch.tensor(list(values.values()), dtype=torch.float64)
    dist.all_reduce(row)
    return dict(zip(values, (row / dist.get_world_size()).tolist(), strict=True))


def largest(number: int) -> int:
    """The largest number of any process, so that all of them decide alike."""
    if not is_joined():
        return number
    held = torch.tensor(number)
    dist.all_reduce(held, dist.ReduceOp.MAX)
    return int(held)


def gather_records(records: list[Any]) -> list[Any]:
    """What JSON can hold, of all processes, in the order of their ranks; lengths may differ."""
    if not is_joined():
        return records
    text = json.dumps(records).encode()
    size = largest(len(text))
    # JSON ignores blanks at its end.
    ours = torch.frombuffer(bytearray(text.ljust(size)), dtype=torch.uint8)
    parts = [torch.empty_like(ours) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, ours)
    return [record for part in parts for record in json.loads(part.numpy().tobytes())]


def wait() -> None:
    """Go on when every process has come here."""
    largest(0)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        ctx.num_rows = len(rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous()
        dist.all_reduce(total)
        return total[dist.get_rank() * ctx.num_rows :][: ctx.num_rows]


class _Alarm:
    """Through it a process that fails tells the others, also those that wait for it in vain."""

    def __init__(self, me: World) -> None:
        # A client of its own: the group's is locked while the group waits for something.
        self._board = _board(me)
        self._key = "brainsegfounder/failed"
        self._rank = me.rank
        self._ended = threading.Event()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def ring(self, error: BaseException) -> None:
        """Tell that this process has failed."""
        with contextlib.suppress(RuntimeError):
            reason = f"process {self._rank}: {type(error).__name__}: {error}"
            self._board.set(self._key, reason[:2000])
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(error)  # so that torchrun shows it first

    def first(self) -> str | None:
        """Who failed and why, or None where no one has told."""
        with contextlib.suppress(RuntimeError):
            if self._board.check([self._key]):
                return str(self._board.get(self._key), "utf-8")
        return None

    def stop(self) -> None:
        """Listen no more."""
        self._ended.set()
        # An interpreter that ends while a thread is asking aborts; an answer takes no time.
        self._listener.join(GRACE_S)

    def _listen(self) -> None:
        while not self._ended.wait(ASK_EVERY_S):
            if self._is_over() and not self._ended.wait(GRACE_S):
                log.error("process %d ends, since another failed: %s", self._rank, self.first())
                logging.shutdown()
                os._exit(1)

    def _is_over(self) -> bool:
        try:
            return bool(self._board.check([self._key]))
        except RuntimeError:  # whoever keeps the board is gone
            return True


def _board(me: World) -> Any:
    """Where the processes of this attempt leave notes for each other.

    torchrun keeps what those of an earlier attempt have left (pytorch/pytorch#135712), whom nobody
    can reach any more. On several machines, where attempts are not counted alike, `--launch slurm`
    has it begin with an empty one.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(  # type: ignore[attr-defined]
        address, port, is_master=False, timeout=PATIENCE
    )
    on_one_machine = os.environ.get("LOCAL_WORLD_SIZE") == str(me.size)
    prefix = f"attempt {me.attempt if on_one_machine else 0}"
    return dist.PrefixStore(prefix, store)  # type: ignore[attr-defined]


def _find_others(me: World) -> _Alarm:
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise UsageError(
            f"WORLD_SIZE is {me.size}, but {' and '.join(missing)} not set; expected where the "
            "processes meet. Start with --launch torchrun or --launch slurm, or with torchrun."
        )
    backend = "gloo"
    if torch.cuda.is_available():
        if me.local_rank >= torch.cuda.device_count():
            raise UsageError(
                f"process {me.local_rank} of this machine, which has {torch.cuda.device_count()} "
                "GPUs; expected a GPU for each. Ask for fewer --processes-per-node."
            )
        torch.cuda.set_device(me.local_rank)
        backend = "cpu:gloo,cuda:nccl"
    if not me.is_main:  # the main process says what all of them do
        logging.getLogger(__package__).setLevel(logging.WARNING)
    began_s = time.monotonic()
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        dist.init_process_group(
            backend, store=_board(me), rank=me.rank, world_size=me.size, timeout=PATIENCE
        )
    else:
        dist.init_process_group(backend, timeout=PATIENCE)
    log.debug("%d processes joined in %.1f s", me.size, time.monotonic() - began_s)
    return _Alarm(me)


def _has_found_others() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
