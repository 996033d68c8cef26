"""Section 1.4: model files that mean harm, each a small change of one that is read.

Pickles are put together opcode by opcode, and archives member by member. A payload that were run
would touch a canary; that each really would is tested with Python's own unpickler.
"""

from __future__ import annotations

import io
import json
import os
import re
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from brainsegfounder.errors import WeightsError
from brainsegfounder.models.foreign import read_foreign
from brainsegfounder.models.swin_unetr import SwinUNETR
from brainsegfounder.models.weights import load_state, load_whole

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:Duplicate name"),
    pytest.mark.timeout(60),
]

MAX_RSS_BYTES = 200_000_000
MAX_CPU_S = 1.0
WEIGHT = torch.arange(4.0).reshape(2, 2)
DATA = WEIGHT.numpy().tobytes()
UTF8 = b"\x08"  # flag of member names, as torch writes them

# Starts the reader from a small process: a child's peak memory includes its parent's at the fork.
LAUNCHER = """
import json, os, signal, sys
command = [sys.executable, "-I", "-m", "brainsegfounder.models.torch_archive", sys.argv[1]]
child = os.fork()
if not child:
    signal.alarm(10)  # a reader that hangs ends too
    os.execve(sys.executable, command, {})
_, status, usage = os.wait4(child, 0)
code = os.waitstatus_to_exitcode(status)
print(json.dumps([code, usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime]))
"""
# Unpickles as it should never be done, but without loading torch for the benign part.
VICTIM = """
import pickle, sys, zipfile
class Thing: pass
class Unpickler(pickle.Unpickler):
    def persistent_load(self, key): return key
    def find_class(self, module, name):
        stand_in = name in ("_rebuild_tensor_v2", "FloatStorage")
        return print if stand_in else super().find_class(module, name)
Unpickler(zipfile.ZipFile(sys.argv[1]).open("archive/data.pkl")).load()
"""


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def row(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def table(**items: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def stacked_name(module: str, attribute: str) -> bytes:
    return b"\x80\x04" + text(module) + text(attribute) + b"\x93"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + row(*arguments) + b"R"


def tensor(key="0", numel=4, offset=b"K\0", shape=(2, 2), stride=(2, 1)) -> bytes:
    kind = name("torch", "FloatStorage")
    storage = row(text("storage"), kind, text(key), text("cpu"), number(numel)) + b"Q"
    sizes = [row(*map(number, values)) for values in (shape, stride)]
    hooks = call(name("collections", "OrderedDict"))
    return call(name("torch._utils", "_rebuild_tensor_v2"), storage, offset, *sizes, b"\x89", hooks)


def pickled(extra: bytes = b"N", weight: bytes = tensor()) -> bytes:
    return b"\x80\x02" + table(extra=extra, state_dict=table(weight=weight)) + b"."


def members(pickle: bytes = pickled(), folder: str = "archive") -> list[tuple[str, bytes]]:
    parts = {"data.pkl": pickle, "version": b"3\n", "data/0": DATA}
    return [(f"{folder}/{part}", content) for part, content in parts.items()]


def zipped(content: list[tuple[str, bytes]], deflate: str = "", flag: bytes = UTF8) -> bytes:
    """The bytes of an archive; the member named `deflate` is compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, data in content:
            how = zipfile.ZIP_DEFLATED if member == deflate else zipfile.ZIP_STORED
            archive.writestr(member, data, how, compresslevel=1)
    return re.sub(rb"(?s)(PK\x03\x04..|PK\x01\x02....)\0\0", rb"\g<1>\0" + flag, buffer.getvalue())


def saved(value: object, **options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def flagged(*headers: bytes) -> bytes:
    """The benign archive whose pickle is called encrypted in these headers."""
    content = bytearray(zipped(members()))
    for header in headers:
        content[content.index(header) + {b"PK\1\2": 8, b"PK\3\4": 6}[header]] |= 1
    return bytes(content)


def crowded() -> bytes:
    """The benign archive, its directory repeated until it names 300 000 members."""
    content = zipped(members())
    start = content.index(b"PK\1\2")
    directory, end = content[start:-22] * 100_000, content[-22:]
    size = struct.pack("<I", len(directory))
    return content[:start] + directory + end[:12] + size + end[16:]


def levels(number_of: int, pair: Callable[[bytes], bytes], start: bytes) -> bytes:
    """A row of levels, each made from the one before by way of the memo."""
    puts = [b"q" + bytes([n]) for n in range(number_of)]
    gets = [b"h" + bytes([n]) for n in range(number_of)]
    return row(start, puts[0], *(pair(g) + p for g, p in zip(gets, puts[1:], strict=False)))


class Bench:
    """A folder to lay files in, and a canary that a payload would leave there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.canary = folder, folder / "canary"
        self.touch = text(f"touch {self.canary}")
        self.python = text(f"__import__('pathlib').Path({str(self.canary)!r}).touch()")

    def file(self, content: bytes, called: str = "a.pt") -> Path:
        path = self.folder / called
        path.write_bytes(content)
        return path

    def zip(self, *pickle: bytes, **parts: bytes) -> Path:
        return self.file(zipped(members(pickled(*pickle, **parts))))

    def link(self, target: Path | str, called: str = "link.pt") -> Path:
        path = self.folder / called
        path.symlink_to(target)
        return path

    def fifo(self) -> Path:
        os.mkfifo(self.folder / "fifo.pt")
        return self.folder / "fifo.pt"

    def popen(self) -> bytes:
        """Starts a process, puts it in the memo, and waits for it."""
        started = call(name("subprocess", "Popen"), row(text("touch"), text(str(self.canary))))
        return started + b"q\x090" + call(stacked_name("subprocess", "Popen.wait"), b"h\x09")

    def hub(self) -> bytes:
        return text(str(self.file(self.python[5:], "hubconf.py").parent))

    def array(self) -> bytes:
        buffer = io.BytesIO()
        head = {"descr": "|O", "fortran_order": False, "shape": ()}
        np.lib.format.write_array_header_1_0(buffer, head)
        payload = b"\x80\x02" + call(name("os", "system"), self.touch) + b"."
        return text(str(self.file(buffer.getvalue() + payload, "evil.npy")))


SYSTEM = name("os", "system")
GETATTR = name("builtins", "getattr")
OS = call(name("builtins", "__import__"), text("os"))
THING = call(name("__main__", "Thing"))
EXTEND = call(name("copyreg", "add_extension"), text("os"), text("system"), number(1))

# Run when unpickled.
PAYLOADS: dict[str, Callable[[Bench], bytes]] = {
    "M01 os.system": lambda at: call(SYSTEM, at.touch),
    "M02 eval": lambda at: call(name("builtins", "eval"), at.python),
    "M02 eval of Python 2": lambda at: call(name("__builtin__", "eval"), at.python),
    "M03 torch.hub": lambda at: call(name("torch.hub", "_load_local"), at.hub(), text("a")),
    "M04 dotted": lambda at: call(stacked_name("torch", "os.system"), at.touch),
    "M05 Popen": Bench.popen,
    "M06 getattr chain": lambda at: call(call(GETATTR, OS, text("system")), at.touch),
    "M07 numpy.load": lambda at: call(name("numpy", "load"), at.array(), b"N", b"\x88"),
    "M08 copyreg and EXT1": lambda at: row(EXTEND, call(b"\x82\x01", at.touch)),
    "M09 INST": lambda at: b"(" + at.touch + b"ios\nsystem\n",
    "M09 OBJ": lambda at: b"(" + SYSTEM + at.touch + b"o",
    "M10 BUILD": lambda at: THING + table(__setstate__=SYSTEM) + b"b" + at.touch + b"b",
}

# Wrong in the pickle of a sound archive, in other ways.
PICKLES: dict[str, bytes] = {
    "M01 a name that clears the screen": stacked_name("os", "\x1b[2J\nsystem"),
    "M01 a class of 10^6 letters": name("torch.nn.system", "A" * 1_000_000),
    "M01 a class of 10^6 letters, stacked": stacked_name("torch.nn.system", "A" * 1_000_000),
    "M03 torch.hub.load": call(name("torch.hub", "load"), text("owner/repo"), text("entry")),
    "M04 below an allowed name": stacked_name("collections", "OrderedDict.__init__"),
    "M08 EXT1": b"\x82\x01",
    "M08 copyreg": name("copyreg", "_reconstructor"),
    "M09 INST of an allowed name": b"(icollections\nOrderedDict\n",
    "M09 OBJ of an allowed name": b"(ccollections\nOrderedDict\no",
    "M10 __setstate__ of text": THING + table(__setstate__=text("a")) + b"b",
    "M26 tuples": b")" + b"\x85" * 100_000,
    "M26 lists": b"]" * 100_000 + b"a" * 99_999,
    "M27 tuples": levels(60, lambda one: one * 2 + b"\x86", row(number(1))),
    "M27 tensors": levels(60, lambda one: table(a=one, b=one), table(a=tensor())),
    "M27 keys": row(levels(20, lambda one: one * 2 + b"\x86", b")"), b"}h\x13Ns" * 1000),
    "M27 lists": row(b"]" * 1_000_000),
}

# Wrong in the one tensor.
TENSORS: dict[str, bytes] = {
    "M11 fewer numbers than stored": tensor(numel=3, shape=(1, 2)),
    "M11 more numbers than stored": tensor(numel=5),
    "M11 many more numbers": tensor(numel=2**40, shape=(2**40,), stride=(1,)),
    "M11 a negative count": tensor(numel=-1),
    "M12 offset": tensor(offset=number(1)),
    "M12 shape": tensor(shape=(2, 3)),
    "M12 stride": tensor(stride=(3, 1)),
    "M12 fewer strides than axes": tensor(stride=(1,)),
    "M13 stride": tensor(offset=number(3), stride=(-2, -1)),
    "M14 product": tensor(shape=(2**31,) * 3, stride=(2**62, 2**31, 1)),
    "M14 product that wraps to 0": tensor(shape=(2**62, 4), stride=(0, 1)),
    "M14 stride 0": tensor(shape=(2**40,), stride=(0,)),
    "M14 beyond 64 bit beside an empty axis": tensor(shape=(0, 2**70)),
    "M14 stride beyond 64 bit on an axis of 1": tensor(shape=(1,), stride=(2**70,)),
    "M19 key of 10^6 letters": tensor("a" * 1_000_000),
    "M19 key of no storage": tensor("1"),
}

TAR = [tarfile.TarInfo(part).tobuf() for part in ("sys_info", "pickle", "tensors", "storages")]
BENIGN = pickled()
LEGACY = saved({"state_dict": {"weight": WEIGHT}}, _use_new_zipfile_serialization=False)
LEGACY_OPENING = LEGACY[: LEGACY.index(text("state_dict")) - 5]
BOMB = members(pickled(weight=tensor(numel=2**26, shape=(2**26,), stride=(1,))))[:2]
DOTS = [*members(pickled(weight=tensor("../0"))), ("archive/0", DATA)]

# Wrong in what holds the pickle.
FILES: dict[str, Callable[[], bytes]] = {
    "M15 sparse CSR": lambda: saved({"state_dict": {"weight": torch.eye(3).to_sparse_csr()}}),
    "M15 sparse COO": lambda: saved({"state_dict": {"weight": torch.eye(3).to_sparse()}}),
    "M16 bomb": lambda: zipped([*BOMB, ("archive/data/0", bytes(2**28))], "archive/data/0"),
    "M16 deflated pickle": lambda: zipped(members(), "archive/data.pkl"),
    "M16 many members": crowded,
    "M17 two folders": lambda: zipped(members() + members(folder="other")),
    "M18 traversal": lambda: zipped([*members(), ("../evil", b"")]),
    "M18 absolute": lambda: zipped([*members(), ("/evil", b"")]),
    "M18 backslash": lambda: zipped([*members(), ("archive\\..\\evil", b"")]),
    "M19 key ../0 of a member": lambda: zipped(DOTS),
    "M20 data": lambda: zipped([*members(), ("archive/data/0", DATA)]),
    "M20 pickle": lambda: zipped([*members(), ("archive/data.pkl", BENIGN)]),
    "M21 directory": lambda: flagged(b"PK\1\2"),
    "M21 local header": lambda: flagged(b"PK\3\4"),
    "M21 local name": lambda: zipped(members()).replace(b"data.pkl", b"evil.pkl", 1),
    "M22 without STOP": lambda: zipped(members(BENIGN[:-1])),
    "M22 empty": lambda: zipped(members(b"")),
    "M22 legacy without its last number": lambda: LEGACY[:-4],
    "M23 plain pickle": lambda: BENIGN,
    "M24 tar": lambda: b"".join(TAR) + bytes(1024),
    "M25 zip for a pickle": lambda: zipped(members(zipped(members()))),
    "M27 a long text": lambda: zipped(
        members(pickled(row(text("a" * 60_000_000 + "\N{BRAIN}"), SYSTEM)))
    ),
    "empty": lambda: b"",
    "text": lambda: b"weights are elsewhere\n",
    "truncated zip": lambda: zipped(members())[:300],
}

CORPUS: dict[str, Callable[[Bench], Path]] = {
    **{case: lambda at, make=make: at.zip(make(at)) for case, make in PAYLOADS.items()},
    **{case: lambda at, extra=extra: at.zip(extra) for case, extra in PICKLES.items()},
    **{case: lambda at, weight=weight: at.zip(weight=weight) for case, weight in TENSORS.items()},
    **{case: lambda at, make=make: at.file(make()) for case, make in FILES.items()},
    "M23 payload": lambda at: at.file(pickled(call(SYSTEM, at.touch))),
    "M23 payload, legacy": lambda at: at.file(LEGACY_OPENING + pickled(call(SYSTEM, at.touch))),
    "M30 FIFO": Bench.fifo,
    "M30 link to a FIFO": lambda at: at.link(at.fifo()),
    "M30 directory": lambda at: at.folder,
    "M30 device": lambda at: Path("/dev/zero"),
    "M30 loop": lambda at: at.link("link.pt"),
    "M30 nothing": lambda at: at.folder / "absent.pt",
}
# What the refusal must say, so that no case is refused for something else.
SAYS = {
    "M01": "system", "M02": "eval", "M03": "torch.hub", "M04": "os.system|__init__", "M05": "Popen",
    "M06": "getattr", "M07": "numpy load", "M08": "EXT1|copyreg", "M09": "INST|OBJ|os system",
    "M10": "os system|special", "M11": "storage of|natural", "M12": "outside|natural|strides",
    "M13": "natural", "M14": "tensor|number", "M15": "sparse", "M16": "compressed|members",
    "M17": "2 members", "M18": "evil", "M19": "storage", "M20": "twice", "M21": "flag|two ways",
    "M22": "damaged|beyond", "M23": "neither|os system", "M24": "neither", "M25": "damaged",
    "M26": "nested", "M27": "nested|opcodes|a pickle of|tuple", "M30": "regular|cannot be",
}  # fmt: skip
corpus = pytest.mark.parametrize("case", CORPUS)


@pytest.fixture
def at(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@corpus
def test_M01_to_M30_a_hostile_file_is_refused_by_name_and_nothing_in_it_runs(at, case):
    path = CORPUS[case](at)
    with pytest.raises(WeightsError) as caught:
        read_foreign(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert re.search(SAYS.get(case[:3], ""), message.removeprefix(f"{path}: "))
    assert message.isprintable()
    assert len(message) < 2000
    assert not at.canary.exists()


def start_reader(path: Path) -> tuple[dict[str, object], int, int, float]:
    """What the reader's process prints, its exit code, its peak memory in bytes, its CPU time."""
    command = [sys.executable, "-I", "-S", "-c", LAUNCHER, str(path)]
    done = subprocess.run(command, env={}, capture_output=True, check=False, timeout=30)
    assert done.stderr == b""
    *told, usage = done.stdout.splitlines()
    return json.loads(told[0] if told else "{}"), *json.loads(usage)


@corpus
def test_M01_to_M30_the_reader_refuses_in_little_time_and_memory(at, case):
    told, code, rss_bytes, cpu_s = start_reader(CORPUS[case](at))
    assert told.keys() == {"error"}
    assert code == 3
    assert rss_bytes < MAX_RSS_BYTES
    assert cpu_s < MAX_CPU_S
    assert not at.canary.exists()


@pytest.mark.parametrize("case", PAYLOADS)
def test_M01_to_M10_each_payload_would_leave_the_canary_if_it_were_unpickled(at, case):
    path = at.zip(PAYLOADS[case](at))
    subprocess.run([sys.executable, "-c", VICTIM, str(path)], capture_output=True, check=False)
    assert at.canary.exists()


@pytest.mark.parametrize(
    "content",
    [
        saved({"state_dict": OrderedDict(weight=WEIGHT)}),
        saved({"state_dict": OrderedDict(weight=WEIGHT.T.contiguous().T), "epoch": 7}),
        LEGACY,
        zipped(members()),
        zipped(members(), flag=rb"\0"),
        zipped(members(pickled(extra=levels(9, row, row(text("os system")))))),
    ],
    ids=["saved", "transposed", "legacy", "by hand", "without the UTF-8 flag", "with more"],
)
def test_M00_the_files_that_hostile_ones_are_made_from_are_read(at, content):
    path = at.file(content)
    told, code, *_ = start_reader(path)
    assert (code, list(told["tensors"])) == (0, ["weight"])
    (weight,) = read_foreign(path).tensors.values()
    assert torch.equal(weight, WEIGHT)
    assert weight.dtype == torch.float32


def test_M30_a_plain_link_to_a_file_is_followed(at):
    tensors = read_foreign(at.link(at.zip())).tensors
    assert torch.equal(tensors["weight"], WEIGHT)


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(head) if length is None else length) + head + data


def entry(begin: int, end: int, *shape: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


ENTRY = json.dumps(entry(0, 16, 2, 2)).encode()
SAFETENSORS: dict[str, Callable[[], bytes]] = {
    "header of 2^63 bytes": lambda: safetensors({"a": entry(0, 16, 2, 2)}, DATA, 2**63),
    "header longer than the file": lambda: safetensors({"a": entry(0, 16, 2, 2)}, DATA, 999),
    "header that is not UTF-8": lambda: safetensors(b'{"\xff": %s}' % ENTRY, DATA),
    "name twice": lambda: safetensors(b'{"a": %s, "a": %s}' % (ENTRY, ENTRY), DATA),
    "overlap": lambda: safetensors({"a": entry(0, 12, 3), "b": entry(8, 16, 2)}, DATA),
    "hole": lambda: safetensors({"a": entry(0, 4, 1), "b": entry(8, 16, 2)}, DATA),
    "more behind it": lambda: safetensors({"a": entry(0, 16, 4)}, DATA + zipped(members())),
    "data cut short": lambda: safetensors({"a": entry(0, 16, 4)}, DATA[:-1]),
    "offsets turned round": lambda: safetensors({"a": entry(16, 0, 4)}, DATA),
    "shape that does not fit": lambda: safetensors({"a": entry(0, 16, 2, 3)}, DATA),
    "shape that wraps to 0": lambda: safetensors({"a": entry(0, 0, 2**62, 4)}),
    "unknown dtype": lambda: safetensors({"a": entry(0, 16, 4, dtype="F33")}, DATA),
    "NaN": lambda: safetensors({"a": entry(0, 4, 1)}, struct.pack("<f", np.nan)),
    "10^6 tensors": lambda: safetensors(dict.fromkeys(range(1_000_000), entry(0, 0, 0))),
    "20 001 tensors": lambda: safetensors(dict.fromkeys(range(20_001), entry(0, 0, 0))),
    "header of 5 MB": lambda: safetensors({"__metadata__": {"a": "a" * 5_000_000}}),
    "empty": lambda: b"",
}


@pytest.mark.parametrize("case", SAFETENSORS)
def test_M28_a_hostile_safetensors_file_is_refused_by_name(at, case):
    path = at.file(SAFETENSORS[case](), "a.safetensors")
    with pytest.raises(WeightsError) as caught:
        load_state(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_M28_sound_safetensors_are_read(at):
    save_file({"weight": WEIGHT}, at.folder / "saved.safetensors")
    by_hand = at.file(safetensors({"weight": entry(0, 16, 2, 2)}, DATA), "by-hand.safetensors")
    for path in (at.folder / "saved.safetensors", by_hand):
        assert torch.equal(load_state(path)["weight"], WEIGHT)


def test_M29_right_names_with_one_wrong_shape_change_nothing():
    network = SwinUNETR(1, 3, "nano")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    state = {key: value + 1 for key, value in before.items()}
    wrong = next(key for key in state if key.endswith("weight"))
    state[wrong] = state[wrong][:-1]
    with pytest.raises(WeightsError, match=rf"^a\.pt: .*{re.escape(wrong)}"):
        load_whole(network, state, "a.pt")
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
