# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""What a source holds and what a copy holds, and the sources of the random administrator: he is the only one who writes to them."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pathlib
import random
import stat
import struct
import subprocess
import sys

from harness import ROOT

sys.path.insert(0, str(ROOT / "Tests/Fixtures/generate"))
import thin_pool  # noqa: E402

BLOCK = 65536
FS_IOC_GETVERSION = 0x80087601


class Content:
    """All bytes of a volume, by a digest of each 64 KiB."""

    __slots__ = ("size", "blocks")

    def __init__(self, size: int, blocks: tuple[bytes, ...]) -> None:
        self.size, self.blocks = size, blocks

    @classmethod
    def of(cls, path: os.PathLike | str, size: int | None = None, may_be_longer: bool = False) -> "Content | None":
        """What is there, or its first `size` bytes; None if there is nothing, or less."""
        try:
            with open(path, "rb") as file:
                data = file.read() if size is None else file.read(size)
                # The target of a volume that shrank is cut if it is a file, and keeps its size if it is a device.
                if size is not None and not may_be_longer and stat.S_ISREG(os.fstat(file.fileno()).st_mode) and file.read(1):
                    return cls(os.fstat(file.fileno()).st_size, ())
        except OSError:
            return None
        return None if size is not None and len(data) < size else cls.of_bytes(data)

    @classmethod
    def of_bytes(cls, data: bytes | bytearray) -> "Content":
        view = memoryview(data)
        return cls(len(data), tuple(hashlib.blake2b(view[at:at + BLOCK], digest_size=16).digest()
                                    for at in range(0, len(data), BLOCK)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Content) and self.size == other.size and self.blocks == other.blocks

    def __hash__(self) -> int:
        return hash((self.size, self.blocks))

    def against(self, other: "Content | None") -> str:
        """How two differ, for a person."""
        if other is None:
            return "there is none, or less"
        if self.size != other.size:
            return f"{self.size} and {other.size} bytes"
        places = [number for number, pair in enumerate(zip(self.blocks, other.blocks)) if pair[0] != pair[1]]
        return f"{len(places)} of {len(self.blocks)} blocks differ: {places[:12]}"


def mark(path: os.PathLike | str) -> tuple | None:
    """What changes with every write to a file, or None if there is no file."""
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_mode


def object_of(path: os.PathLike | str) -> tuple:
    """Which file this is, whatever its name."""
    with open(path, "rb") as file:
        facts = os.fstat(file.fileno())
        generation = bytearray(8)
        try:
            fcntl.ioctl(file.fileno(), FS_IOC_GETVERSION, generation)
        except OSError:
            pass
        return facts.st_ino, bytes(generation[:4])


def noise(rng: random.Random, length: int) -> bytes:
    return rng.randbytes(length)


def write_at(path: os.PathLike | str, offset: int, data: bytes, flush: bool = True) -> None:
    with open(path, "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), data, offset)
        if flush:
            os.fsync(file.fileno())


class File:
    """A plain file, given by its path or by another name of it."""

    kind = "file"

    def __init__(self, path: pathlib.Path, rng: random.Random, size: int) -> None:
        self.path, self.rng, self.given = path, rng, path
        # Some places never written: a map says zeros there.
        data = bytearray(noise(rng, size))
        for _ in range(rng.randrange(4)):
            at = rng.randrange(size // BLOCK + 1) * BLOCK
            data[at:at + 2 * BLOCK] = bytes(len(data[at:at + 2 * BLOCK]))
        path.write_bytes(data)

    def arguments(self) -> list[str]:
        return [str(self.given)]

    def content(self) -> Content | None:
        return Content.of(self.path)

    def object(self) -> tuple:
        return object_of(self.path)

    def files(self) -> list[pathlib.Path]:
        """What no command of ours may change."""
        return [self.path]

    def size(self) -> int:
        return os.stat(self.path).st_size

    def write(self) -> str:
        """Writes somewhere in place, as an application does."""
        size, places = self.size(), self.rng.choice([1, 1, 2, 5])
        said = []
        for _ in range(places):
            at = self.rng.randrange(max(1, size))
            length = min(size - at, self.rng.choice([1, 512, 4096, BLOCK, 3 * BLOCK]))
            data = bytes(length) if self.rng.random() < 0.2 else noise(self.rng, length)
            write_at(self.path, at, data, flush=self.rng.random() < 0.5)
            said.append(f"{at}+{length}")
        return " ".join(said)


class Loop(File):
    """A loop device, given by a symbolic link as /dev/disk/by-id has them."""

    kind = "loop"

    def __init__(self, path: pathlib.Path, rng: random.Random, size: int, loops: list[str]) -> None:
        self.backing, self.loops = path, loops
        super().__init__(path, rng, size)
        self.path = self.given = path.with_suffix(".device")
        self.attach()

    def attach(self) -> None:
        device = attach(self.backing, self.loops)
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(device)

    def object(self) -> tuple:
        return object_of(self.backing)

    def files(self) -> list[pathlib.Path]:
        return [self.backing]

    def size(self) -> int:
        with open(self.path, "rb") as file:
            return file.seek(0, os.SEEK_END)

    def write(self) -> str:
        said = super().write()
        with open(self.path, "r+b", buffering=0) as file:
            os.fsync(file.fileno())
        return said


class Images:
    """What images of a pool and of stores have in common."""

    given = None

    def files(self) -> list[pathlib.Path]:
        return list(self.paths)

    def size(self) -> int:
        return self.bytes

    def object(self) -> tuple:
        return object_of(self.paths[-1])


class Thin(Images):
    """Images of a thin pool with one volume. A point in time is a new device of the pool; all of them stay."""

    kind = "thin"

    def __init__(self, folder: pathlib.Path, name: str, rng: random.Random, size: int) -> None:
        self.rng, self.blocks, self.bytes = rng, size // BLOCK, size // BLOCK * BLOCK
        self.paths = [folder / f"{name}.tmeta", folder / f"{name}.tdata"]
        self.pool = thin_pool.Pool(rng.choice([6, 9, 252]), rng)
        self.volume = self.pool.create(1)
        self.data: dict[int, bytes] = {}
        self.number = 1
        for _ in range(rng.randrange(4, 12)):
            self.touch(rng.randrange(self.blocks))
        self.write()

    def touch(self, block: int) -> None:
        if self.rng.random() < 0.85:
            at = self.pool.next_data
            self.pool.write(self.volume, block)
            content = noise(self.rng, BLOCK)
            self.data[at] = content
            with open(self.paths[1], "r+b" if self.paths[1].exists() else "w+b") as file:
                file.seek(at * BLOCK)
                file.write(content)
        else:
            self.pool.discard(self.volume, block)

    def write(self) -> str:
        touched = [self.rng.randrange(self.blocks) for _ in range(self.rng.choice([1, 2, 4]))]
        for block in touched:
            self.touch(block)
        self.number += 1
        self.snapshot = self.pool.snapshot(self.volume, self.number)
        if not self.paths[1].exists():
            self.paths[1].write_bytes(bytes(BLOCK))
        for device in self.pool.devices:
            clear(device.root)
        self.pool.save(self.paths[0])
        return f"blocks {touched}, device {self.number}"

    def arguments(self) -> list[str]:
        return ["--thin-metadata", str(self.paths[0]), "--thin-data", str(self.paths[1]),
                "--device", str(self.number), "--volume-size", str(self.bytes)]

    def content(self) -> Content:
        data = bytearray(self.bytes)
        for block, (at, _) in self.snapshot.model.items():
            data[block * BLOCK:(block + 1) * BLOCK] = self.data[at]
        return Content.of_bytes(data)


def clear(node: thin_pool.Node) -> None:
    """Forgets where a tree was saved before."""
    node.block = None
    if not node.leaf:
        for child in node.values:
            clear(child)


class Classic(Images):
    """Images of an origin and of the store of its one snapshot: the point in time is the snapshot's."""

    kind = "classic"
    chunk = 4096

    def __init__(self, folder: pathlib.Path, name: str, rng: random.Random, size: int) -> None:
        self.rng, self.bytes = rng, size // self.chunk * self.chunk
        self.paths = [folder / f"{name}.cow", folder / f"{name}.origin"]
        self.folder, self.name, self.sent = folder, name, None
        self.origin = bytearray(noise(rng, self.bytes))
        self.snap()

    def snap(self) -> None:
        """A new snapshot: nothing is in its store."""
        self.then, self.kept = bytes(self.origin), {}
        self.save()

    def save(self) -> None:
        per_area = self.chunk // 16
        assert len(self.kept) < per_area
        area = b"".join(struct.pack("<QQ", chunk, 2 + number) for number, chunk in enumerate(self.kept))
        image = struct.pack("<4I", 0x70416E53, 1, 1, self.chunk // 512).ljust(self.chunk, b"\0")
        image += area.ljust(self.chunk, b"\0") + b"".join(self.kept.values())
        for path, data in zip(self.paths, (image.ljust(1 << 20, b"\0"), self.origin)):
            with open(path, "r+b" if path.exists() else "w+b") as file:
                file.write(data)

    def write(self) -> str:
        """Writes to the origin, after a new snapshot now and then."""
        fresh = self.rng.random() < 0.5 or len(self.kept) > 200
        if fresh:
            self.snap()
        touched = [self.rng.randrange(self.bytes // self.chunk) for _ in range(self.rng.choice([0, 1, 3]))]
        for chunk in touched:
            place = slice(chunk * self.chunk, (chunk + 1) * self.chunk)
            self.kept.setdefault(chunk, bytes(self.origin[place]))
            self.origin[place] = noise(self.rng, self.chunk)
        self.save()
        return f"{'new snapshot, ' if fresh else ''}chunks {touched}"

    def arguments(self) -> list[str]:
        return ["--cow-origin", str(self.paths[1]), "--cow-store", str(self.paths[0])]

    def content(self) -> Content:
        return Content.of_bytes(self.then)


def attach(path: pathlib.Path, loops: list[str]) -> str:
    """Attaches a loop device that `loops` remembers."""
    done = subprocess.run(["losetup", "--find", "--show", str(path)], capture_output=True, text=True, check=True)
    loops.append(done.stdout.strip())
    return loops[-1]
