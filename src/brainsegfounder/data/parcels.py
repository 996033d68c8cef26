"""Batches on their way from one process to another, through memory without a name.

The memory's handle travels with the message. So nothing is copied on arrival, nobody has to be
asked for it, the sender may be dead by then, and /dev/shm, which containers keep small, holds none
of it. Where the system has no such memory (it is Linux's memfd), the bytes go through the pipe.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any, NamedTuple

import torch
from torch import Tensor

ALIGNMENT = 64


class Parcel(NamedTuple):
    """A batch in parts.

    Attributes:
        tensors: By name; each is to be joined along its first axis, and not empty.
        rest: What else belongs to the batch.
    """

    tensors: Mapping[str, Sequence[Tensor]]
    rest: Mapping[str, Any]


class _Place(NamedTuple):
    """Where a tensor lies in the memory."""

    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype


class Sealed(NamedTuple):
    """A batch as it arrives: where its tensors lie, in what (a handle of memory, or bytes)."""

    places: dict[str, _Place]
    content: int | bytes
    num_bytes: int
    rest: dict[str, Any]


def assembled(parcel: Parcel) -> dict[str, Any]:
    """All of a batch by name, tensors joined."""
    tensors = {name: torch.cat(list(parts)) for name, parts in parcel.tensors.items()}
    return {**tensors, **parcel.rest}


def send_parcel(pipe: Connection, parcel: Parcel, receiver: int) -> None:
    """Send a batch; its tensors are joined on the way.

    Args:
        pipe: To the receiver.
        parcel: The batch.
        receiver: The receiver's process number.
    """
    places, num_bytes = _lay_out(parcel.tensors)
    handle = _new_memory(num_bytes)
    memory = mmap.mmap(-1 if handle is None else handle, num_bytes)
    for name, tensor in _tensors_in(memory, places).items():
        torch.cat(list(parcel.tensors[name]), out=tensor)
    pipe.send((places, num_bytes, handle is not None, dict(parcel.rest)))
    if handle is None:
        pipe.send_bytes(memory)
    else:
        send_handle(pipe, handle, receiver)
        os.close(handle)


def receive_parcel(pipe: Connection, await_more: Callable[[], None]) -> Sealed | BaseException:
    """What `send_parcel` sent, not opened yet; or the exception that was sent instead.

    Args:
        pipe: From the sender.
        await_more: Called before more is read; returns when there is something, or raises.

    Raises:
        EOFError: The sender died; also OSError.
    """
    await_more()
    message = pipe.recv()
    if isinstance(message, BaseException):
        return message
    places, num_bytes, has_handle, rest = message
    await_more()
    if has_handle:
        return Sealed(places, recv_handle(pipe), num_bytes, rest)
    return Sealed(places, pipe.recv_bytes(), num_bytes, rest)


def opened(sealed: Sealed) -> dict[str, Any]:
    """All of a batch by name.

    Raises:
        OSError: There is no room for it in this process's memory.
    """
    content: mmap.mmap | bytearray
    if isinstance(sealed.content, bytes):
        content = bytearray(sealed.content)
    else:
        content = mmap.mmap(sealed.content, sealed.num_bytes)
        os.close(sealed.content)
    return {**_tensors_in(content, sealed.places), **sealed.rest}


def _lay_out(tensors: Mapping[str, Sequence[Tensor]]) -> tuple[dict[str, _Place], int]:
    """A place for each joined tensor, and how many bytes they take."""
    places, offset = {}, 0
    for name, parts in tensors.items():
        shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
        places[name] = _Place(offset, shape, parts[0].dtype)
        num_bytes = math.prod(shape) * parts[0].element_size()
        offset += math.ceil(num_bytes / ALIGNMENT) * ALIGNMENT
    return places, offset


def _tensors_in(memory: mmap.mmap | bytearray, places: Mapping[str, _Place]) -> dict[str, Tensor]:
    """Tensors that lie in the memory, and keep it as long as one of them lives."""
    return {
        name: torch.frombuffer(
            memory, dtype=place.dtype, count=math.prod(place.shape), offset=place.offset
        ).view(place.shape)
        for name, place in places.items()
    }


def _new_memory(num_bytes: int) -> int | None:
    """Handle of memory without a name, or None where the system has none."""
    try:
        handle = os.memfd_create("batch")
    except (AttributeError, OSError):
        return None
    os.ftruncate(handle, num_bytes)
    return handle
