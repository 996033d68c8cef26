"""What lies where in a file that `torch.save` wrote, found out without running anything in it.

Such a file is an archive: a pickle, whose opcodes `models/pickle_opcodes.py` reads, and storages of
numbers beside it. Everything about it that could hide something is refused. No torch, no pickle.

Run as `python -I -m brainsegfounder.models.torch_archive FILE`, which `models/foreign.py` does, in
a process with limits: it prints one line of JSON and ends with 0, or 3 for a file it refuses.
"""

from __future__ import annotations

import io
import json
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from brainsegfounder.models.pickle_opcodes import (
    ITEM_BYTES,
    MAX_NAME,
    Interpreter,
    RefusedError,
    Shell,
    TensorPlace,
    expect,
)

MAX_PICKLE_BYTES = 16 << 20
MAX_MEMBERS = 20_000
MAX_DIRECTORY_BYTES = 4 << 20
MEMORY_BYTES = 512 << 20
CPU_SECONDS = 60

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001

_STATE_KEYS = ("state_dict", "model_state_dict", "model", "network", "net")


def read_index(path: Path) -> dict[str, Any]:
    """Where the tensors of a file lie.

    Returns:
        `tensors`: for each name its `kind`, `shape`, `strides` in items and `start` in bytes;
        `shells`: names of classes that became shells.

    Raises:
        RefusedError: The file is not an honest archive of weights; says why.
    """
    if not path.is_file():
        raise RefusedError("not a regular file")
    interpreter = Interpreter()
    with path.open("rb") as file:
        if file.read(4) == b"PK\x03\x04":
            root, starts = _read_zip(file, interpreter)
        else:
            file.seek(0)
            root, starts = _read_legacy(file, interpreter)
    tensors = {}
    for name, place in _named_tensors(root):
        storage, item = place.storage, ITEM_BYTES[place.storage.kind]
        start, num_bytes = starts.get(storage.key, (0, -1))
        if num_bytes != storage.num_items * item:
            raise RefusedError(
                f"'{name}' needs a storage of {storage.num_items} numbers, found {num_bytes} bytes"
            )
        tensors[name] = {
            "kind": storage.kind,
            "shape": place.shape,
            "strides": place.strides,
            "start": start + place.offset * item,
        }
    if not tensors:
        raise RefusedError("no named tensors found in it")
    return {"tensors": tensors, "shells": sorted(interpreter.shells)}


def _read_zip(file: IO[bytes], interpreter: Interpreter) -> tuple[Any, dict[str, tuple[int, int]]]:
    """The object of a zip archive, and start and length of each storage."""
    _check_directory(file)
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
        raise RefusedError(f"a damaged zip archive ({error})") from error
    members = archive.infolist()
    names = [member.filename for member in members]
    if len(members) > MAX_MEMBERS or len(set(names)) != len(names):
        raise RefusedError("too many members in the archive, or one name twice")
    pickles = [name for name in names if name.rsplit("/", 1)[-1] == "data.pkl"]
    if len(pickles) != 1:
        raise RefusedError(f"{len(pickles)} members named data.pkl, expected one")
    folder = pickles[0].removesuffix("data.pkl")
    places = {member.filename: _place(file, member) for member in members}
    _check_apart(sorted(places.values()))
    if places.get(f"{folder}byteorder", (0, 6))[1] != len("little"):
        raise RefusedError("numbers of another byte order, expected little-endian ones")
    start, length = places[pickles[0]]
    if length > MAX_PICKLE_BYTES:
        raise RefusedError(f"a pickle of {length} bytes, expected {MAX_PICKLE_BYTES} at most")
    file.seek(start)
    root = _run(interpreter, file, length)
    data = f"{folder}data/"
    return root, {n.removeprefix(data): place for n, place in places.items() if n.startswith(data)}


def _check_directory(file: IO[bytes]) -> None:
    """Bound the length of the list of members, which `zipfile` would read as a whole."""
    file.seek(0, 2)
    end = file.tell()
    file.seek(max(0, end - (1 << 16) - 22))
    tail = file.read()
    found = tail.rfind(b"PK\x05\x06")
    if found < 0 or len(tail) - found < 22:
        raise RefusedError("a damaged zip archive (it has no end)")
    count, num_bytes = struct.unpack("<HI", tail[found + 10 : found + 16])
    if count != 0xFFFF and count <= MAX_MEMBERS and num_bytes <= MAX_DIRECTORY_BYTES:
        return
    # A long list has its numbers in a 64-bit record before the end.
    longer = tail.rfind(b"PK\x06\x06", 0, found)
    if longer < 0 or len(tail) - longer < 56:
        raise RefusedError("a zip archive with too many members")
    count, num_bytes = struct.unpack("<QQ", tail[longer + 32 : longer + 48])
    if count > MAX_MEMBERS or num_bytes > MAX_DIRECTORY_BYTES:
        raise RefusedError("a zip archive with too many members")


def _place(file: IO[bytes], member: zipfile.ZipInfo) -> tuple[int, int]:
    """Where the bytes of a stored member begin, and how many they are."""
    name = member.filename
    parts = name.split("/")
    if ".." in parts or "" in parts or "\\" in name or ":" in name or len(name) > MAX_NAME:
        raise RefusedError(f"a member named {name!r}")
    file.seek(member.header_offset)
    header = file.read(30)
    if len(header) != 30 or header[:4] != b"PK\x03\x04":
        raise RefusedError(f"member {name!r} has no header")
    flags, method = struct.unpack("<HH", header[6:10])
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    is_plain = method == member.compress_type == zipfile.ZIP_STORED
    # Bit 3: sizes stand after the data; bit 11: the name is UTF-8. Any other hides something.
    if not is_plain or flags & ~0x808 or flags != member.flag_bits:
        raise RefusedError(f"member {name!r} is compressed, encrypted or oddly flagged")
    if member.file_size != member.compress_size or file.read(name_length) != name.encode():
        raise RefusedError(f"member {name!r} is described in two ways")
    return member.header_offset + 30 + name_length + extra_length, member.file_size


def _check_apart(places: list[tuple[int, int]]) -> None:
    end = 0
    for start, length in places:
        if start < end:
            raise RefusedError("members of the archive that overlap")
        end = start + length


def _run(interpreter: Interpreter, file: IO[bytes], most: int) -> Any:
    """What the pickle at a file's position describes; the file stands behind it afterwards.

    The bytes are read at once, as asking the file for each opcode takes longer than all the rest.
    """
    start = file.tell()
    content = io.BytesIO(file.read(most))
    root = interpreter.run(content)
    file.seek(start + content.tell())
    return root


def _read_legacy(
    file: IO[bytes], interpreter: Interpreter
) -> tuple[Any, dict[str, tuple[int, int]]]:
    """The object of a file from before torch 1.6, and start and length of each storage."""
    try:
        header = [_run(Interpreter(), file, 1 << 12) for _ in range(3)]
        is_legacy = header[:2] == [_LEGACY_MAGIC, _LEGACY_VERSION]
    except RefusedError:
        is_legacy = False
    if not is_legacy:
        raise RefusedError("neither a zip archive nor a legacy file of torch.save")
    if not (isinstance(header[2], dict) and header[2].get("little_endian") is True):
        raise RefusedError("numbers of another byte order, expected little-endian ones")
    root = _run(interpreter, file, MAX_PICKLE_BYTES)
    keys = expect(_run(Interpreter(), file, MAX_PICKLE_BYTES), list)
    kinds = {key: storage.kind for key, storage in interpreter.storages.items()}
    starts: dict[str, tuple[int, int]] = {}
    end = Path(file.name).stat().st_size
    for key in keys:
        head = file.read(8)
        if key not in kinds or len(head) != 8:
            raise RefusedError("storages that do not fit its tensors")
        num_bytes = struct.unpack("<q", head)[0] * ITEM_BYTES[kinds[key]]
        start = file.tell()
        if num_bytes < 0 or start + num_bytes > end:
            raise RefusedError("a storage that goes beyond the end of the file")
        starts[key] = (start, num_bytes)
        file.seek(num_bytes, 1)
    return root, starts


def _named_tensors(root: Any) -> Iterator[tuple[str, TensorPlace]]:
    """The tensors of a state dict or module, or of the one under a usual key of a dictionary."""
    if isinstance(root, dict) and not any(isinstance(v, TensorPlace) for v in root.values()):
        inner = [root[key] for key in _STATE_KEYS if isinstance(root.get(key), (dict, Shell))]
        root = inner[0] if inner else root
    waiting, num_seen = [("", root)], 0
    while waiting:
        prefix, value = waiting.pop()
        num_seen += 1
        if num_seen > MAX_MEMBERS:
            raise RefusedError(f"more than {MAX_MEMBERS} parts")
        if isinstance(value, Shell):
            for kind in ("_parameters", "_buffers", "_modules"):
                waiting.append((prefix, value.state.get(kind) or {}))
        elif isinstance(value, dict):
            for name, part in value.items():
                full = f"{prefix}{name}"
                if not isinstance(name, str) or len(full) > MAX_NAME:
                    continue
                if isinstance(part, TensorPlace):
                    yield full, part
                elif isinstance(part, Shell):
                    waiting.append((f"{full}.", part))


def _limit() -> None:
    """Bound memory, time and processes, and end at the first act that reading never needs."""
    import resource

    "".encode("cp437")  # `zipfile` decodes old names with it, and nothing is imported later
    for what, most in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))
    never = (
        "os.system",
        "os.exec",
        "os.fork",
        "os.posix_spawn",
        "subprocess.",
        "socket.",
        "ctypes",
    )

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and any(letter in str(arguments[1]) for letter in "wax+")
        if writes or event == "import" or event.startswith(never):
            raise RefusedError(f"tried to do what reading never needs ({event})")

    sys.addaudithook(watch)


def main() -> None:
    """Print where the tensors of a file lie, or why it is refused."""
    path = Path(sys.argv[1])
    _limit()
    try:
        result, code = read_index(path), 0
    except RefusedError as error:
        result, code = {"error": str(error)}, 3
    except (MemoryError, OSError, RecursionError) as error:
        result, code = {"error": f"cannot be read ({type(error).__name__}: {error})"}, 3
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
    sys.exit(code)


if __name__ == "__main__":
    main()
