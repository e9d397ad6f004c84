# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""The packets between blockferryd and blockferryd-lvm, and the tag of a kept generation, written from Helper.md alone.
`python3 helper.py` makes helper-vectors.json; decode.py and the Swift tests check it."""

from __future__ import annotations

import base64
import json
import re
import struct
import sys
from pathlib import Path

LOOK, ROOM, KEPT, KEEP, RELEASE, GROW, ACTIVATE = range(1, 8)
DONE, REFUSED, FAILED = range(3)
REQUEST_LIMIT, ANSWER_LIMIT, SNAPSHOTS = 512, 131_072, 256
UUID = re.compile(r"[A-Za-z0-9!#]{6}(-[A-Za-z0-9!#]{4}){5}-[A-Za-z0-9!#]{6}")
IDS = re.compile(rb"[A-Za-z0-9!#]{64}")
NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._+][A-Za-z0-9._+-]{0,62}")


def text(value: str) -> bytes:
    return struct.pack("<H", len(value.encode())) + value.encode()


def owner(standby: bytes, volume: str) -> bytes:
    assert len(standby) == 8
    return standby + text(volume)


def mark(number: int, identity: bytes, time: int, committed: int) -> bytes:
    return struct.pack("<Q", number) + identity + struct.pack("<QQ", time, committed)


def request(kind: int, ids: str, body: bytes = b"") -> bytes:
    return b"BFLV" + struct.pack("<BBH", 2, kind, 0) + ids.encode() + body


def answer(kind: int, status: int, body: bytes = b"") -> bytes:
    return b"BFLV" + struct.pack("<BBBB", 2, kind, status, 0) + body


def room(block: int, data: tuple[int, int], metadata: tuple[int, int], text: tuple[int, int], own: int, grows: int, left: int) -> bytes:
    return struct.pack("<QQQQQQQQBI", block, *data, *metadata, *text, own, grows, left)


def tag(standby: bytes, volume: str, number: int, identity: bytes, time: int, committed: int) -> str:
    data = standby + identity + struct.pack("<QQ", time, committed)
    return f"bfk2:{number}:{volume}:" + base64.b64encode(data).decode().rstrip("=")


class Malformed(Exception):
    pass


class Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def take(self, count: int) -> bytes:
        if self.place + count > len(self.data):
            raise Malformed("truncated")
        self.place += count
        return self.data[self.place - count:self.place]

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def need(self, condition: object, why: str) -> None:
        if not condition:
            raise Malformed(why)

    def text(self, least: int, most: int) -> str:
        count = self.number(2)
        self.need(least <= count <= most, "bad-string-length")
        raw = self.take(count)
        try:
            found = raw.decode()
        except UnicodeDecodeError:
            raise Malformed("bad-string-utf8") from None
        self.need(all(ord(c) >= 32 and ord(c) != 127 for c in found), "bad-string-characters")
        return found

    def uuid(self, least: int = 38) -> str:
        found = self.text(0, 38)
        self.need(found == "" and least == 0 or UUID.fullmatch(found), "bad-string-characters")
        return found

    def owner(self) -> dict:
        standby, name = self.take(8), self.text(1, 63)
        self.need(NAME.fullmatch(name), "bad-string-characters")
        return {"standby": standby.hex(), "volume": name}

    def mark(self) -> dict:
        number = self.number(8)
        self.need(number, "bad-number")
        return {"number": number, "id": self.take(32).hex(), "time": self.number(8), "committed": self.number(8)}

    def end(self) -> None:
        self.need(self.place == len(self.data), "trailing-bytes")

    def header(self) -> int:
        self.need(self.take(4) == b"BFLV", "bad-magic")
        self.need(self.number(1) == 2, "bad-version")
        return self.number(1)


def read_request(data: bytes) -> dict:
    reader = Reader(data)
    kind = reader.header()
    reader.need(1 <= kind <= 7, "unknown-type")
    reader.need(reader.take(2) == b"\0\0", "reserved-bits")
    ids = reader.take(64)
    reader.need(IDS.fullmatch(ids), "bad-string-characters")
    found: dict = {"type": kind, "ids": ids.decode()}
    if kind in (KEPT, KEEP, RELEASE):
        found.update(reader.owner())
    if kind == KEPT:
        found["after"] = reader.uuid(0)
    if kind == KEEP:
        found.update(reader.mark())
    if kind == RELEASE:
        found["uuid"] = reader.uuid()
    if kind == GROW:
        found["bytes"] = size = reader.number(8)
        reader.need(0 < size <= 1 << 62 and size % 512 == 0, "bad-volume-size")
    reader.end()
    return found


def read_answer(data: bytes) -> dict:
    reader = Reader(data)
    kind = reader.header()
    reader.need(kind <= 7, "unknown-type")
    status = reader.number(1)
    reader.need(reader.take(1) == b"\0", "reserved-bits")
    reader.need(status <= 2 and (kind or status), "bad-code")
    found: dict = {"type": kind, "status": status}
    if status:
        found["reason"] = reader.text(1, 1024)
    elif kind == LOOK:
        flags = reader.number(1)
        reader.need(flags <= 3, "reserved-bits")
        reader.need(reader.take(3) == bytes(3), "reserved-bits")
        thin = reader.number(4)
        reader.need(flags & 1 or not thin, "bad-number")
        found.update(thin=thin if flags & 1 else None, proven=bool(flags & 2), open=reader.number(4))
    elif kind == ROOM:
        block = reader.number(8)
        reader.need(block, "zero-length")
        found.update(block=block)
        for what in ("data", "metadata", "text"):
            found[what] = [reader.number(8), reader.number(8)]
            reader.need(found[what][1] <= found[what][0], "bad-number")
        found["own"] = reader.number(8)
        grows = reader.number(1)
        reader.need(grows <= 1, "reserved-bits")
        found.update(grows=bool(grows), left=reader.number(4))
    elif kind == KEPT:
        more = reader.number(1)
        reader.need(more <= 1, "reserved-bits")
        count = reader.number(2)
        reader.need(count <= SNAPSHOTS and (count or not more), "bad-count")
        found.update(more=bool(more), kept=[])
        for _ in range(count):
            one = {**reader.mark(), "device": reader.number(4), "snapshot": reader.text(1, 257), "uuid": reader.uuid()}
            reader.need(not found["kept"] or found["kept"][-1]["uuid"] < one["uuid"], "order")
            found["kept"].append(one)
    reader.end()
    return found


TAG = re.compile(r"bfk2:([1-9][0-9]{0,19}):([A-Za-z0-9+_.-]{1,63}):([A-Za-z0-9+/]{75})")


def read_tag(data: bytes) -> dict:
    match = TAG.fullmatch(data.decode("latin-1"))
    if not match or int(match[1]) >= 1 << 64 or not NAME.fullmatch(match[2]):
        raise Malformed("no-tag")
    raw = base64.b64decode(match[3] + "=")
    if base64.b64encode(raw).decode().rstrip("=") != match[3]:
        raise Malformed("no-tag")
    time, committed = struct.unpack("<QQ", raw[40:])
    return {"standby": raw[:8].hex(), "volume": match[2], "number": int(match[1]), "id": raw[8:40].hex(), "time": time,
            "committed": committed}


def vectors() -> list[dict]:
    ids = "MZcaPsacja5UWkonpHKkRNv2FMpVJKwSvyfkH78VZcOMgFoYTvfsvEgFT1TEE9nJ"
    uuids = ["BlwnJa-uuSm-VK3x-W4Cu-lnT8-t7C0-8m3hVS", "vyfkH7-8VZc-OMgF-oYTv-fsvE-gFT1-TEE9nJ"]
    mine, one = owner(bytes(range(8)), "home"), mark(7, bytes([7]) * 32, 1_700_000_000 * 10**9, 1_700_000_009 * 10**9)
    good = {
        "look": request(LOOK, ids), "room": request(ROOM, ids), "kept": request(KEPT, ids, mine + text("")),
        "kept after": request(KEPT, ids, mine + text(uuids[0])), "keep": request(KEEP, ids, mine + one),
        "release": request(RELEASE, ids, mine + text(uuids[1])), "grow": request(GROW, ids, struct.pack("<Q", 1 << 40)),
        "activate": request(ACTIVATE, ids),
    }
    listed = b"".join(one + struct.pack("<I", 9 - n) + text(f"vg/home_blockferry_g{n}") + text(uuid) for n, uuid in enumerate(uuids))
    answers = {
        "look": answer(LOOK, DONE, struct.pack("<BxxxII", 3, 4, 1)), "not thin": answer(LOOK, DONE, bytes(12)),
        "room": answer(ROOM, DONE, room(65536, (4096, 99), (1024, 1000), (1 << 20, 500_000), 77, 1, 16_000_000)),
        "a full room": answer(ROOM, DONE, room(65536, (1, 0), (1, 0), (0, 0), 0, 0, 0)),
        "nothing kept": answer(KEPT, DONE, bytes(3)), "kept": answer(KEPT, DONE, struct.pack("<BH", 1, 2) + listed),
        "done": answer(KEEP, DONE), "refused": answer(GROW, REFUSED, text("vg/x is not configured")),
        "failed": answer(0, FAILED, text("lvs failed: ü")),
    }
    bad = [
        ("nothing", b""), ("magic", b"BFLW" + good["look"][4:]), ("version", b"BFLV\1" + good["look"][5:]),
        ("type 0", request(0, ids)), ("type 8", request(8, ids)), ("reserved", b"BFLV\2\1\1\0" + ids.encode()),
        ("a slash in the ids", request(LOOK, "/" + ids[1:])), ("a dash in the ids", request(LOOK, "-" + ids[1:])),
        ("half of the ids", request(LOOK, ids[:32])), ("more", good["look"] + b"\0"),
        ("name of no volume", request(KEPT, ids, owner(bytes(8), "../x") + text(""))),
        ("no name", request(KEPT, ids, owner(bytes(8), "") + text(""))),
        ("after nothing known", request(KEPT, ids, mine + text("x"))),
        ("generation 0", request(KEEP, ids, mine + mark(0, bytes(32), 0, 0))),
        ("keep, cut", good["keep"][:-1]), ("no snapshot", request(RELEASE, ids, mine + text(""))),
        ("an option", request(RELEASE, ids, mine + text("--force" + "-" * 31))),
        ("size 0", request(GROW, ids, bytes(8))), ("half a sector", request(GROW, ids, struct.pack("<Q", 513))),
        ("too large", request(GROW, ids, struct.pack("<Q", (1 << 62) + 512))),
    ]
    bad_answers = [
        ("nothing", b""), ("type 8", answer(8, REFUSED, text("x"))), ("status 3", answer(LOOK, 3)),
        ("nothing done", answer(0, DONE)), ("reserved", answer(KEEP, DONE)[:-1] + b"\1"), ("more", answer(KEEP, DONE, b"\0")),
        ("no reason", answer(KEEP, REFUSED, text(""))), ("a line feed", answer(KEEP, REFUSED, text("a\nb"))),
        ("no UTF-8", answer(KEEP, REFUSED, b"\1\0\xff")), ("flags", answer(LOOK, DONE, struct.pack("<BxxxII", 4, 0, 1))),
        ("an id unknown", answer(LOOK, DONE, struct.pack("<BxxxII", 2, 4, 1))),
        ("blocks of 0", answer(ROOM, DONE, room(0, (1, 1), (1, 1), (1, 1), 0, 0, 1))),
        ("more free than there is", answer(ROOM, DONE, room(1, (1, 2), (1, 1), (1, 1), 0, 0, 1))),
        ("more metadata free than there is", answer(ROOM, DONE, room(1, (1, 1), (1, 2), (1, 1), 0, 0, 1))),
        ("more text free than there is", answer(ROOM, DONE, room(1, (1, 1), (1, 1), (1, 2), 0, 0, 1))),
        ("room, cut", answer(ROOM, DONE, room(1, (1, 1), (1, 1), (1, 1), 0, 0, 1)[:-1])),
        ("grows by half", answer(ROOM, DONE, room(1, (1, 1), (1, 1), (1, 1), 0, 2, 1))),
        ("more of nothing", answer(KEPT, DONE, struct.pack("<BH", 1, 0))),
        ("257", answer(KEPT, DONE, struct.pack("<BH", 0, 257))),
        ("out of order", answer(KEPT, DONE, struct.pack("<BH", 0, 2) + (one + bytes(4) + text("vg/s") + text(uuids[0])) * 2)),
    ]
    late, most = 1_700_000_009 * 10**9, (1 << 64) - 1
    tags = {
        "one": tag(bytes(range(8)), "home", 7, bytes(range(32)), late - 9 * 10**9, late),
        "the first of all": tag(bytes(8), "a", 1, bytes(32), 0, 0),
        "the largest": tag(b"\xff" * 8, "v" * 63, most, b"\xff" * 32, most, most),
        "a name of signs": tag(bytes(range(8)), "._+-.A", 10, b"\xfb\xef\xbe" * 10 + b"\xff\xff", late, 1),
    }
    one_tag = tags["one"]
    bad_tags = [
        ("nothing", ""), ("another form", one_tag.replace("bfk2", "bfk3")), ("number 0", one_tag.replace(":7:", ":0:")),
        ("a leading zero", one_tag.replace(":7:", ":07:")), ("a sign", one_tag.replace(":7:", ":+7:")),
        ("a number of 65 bits", one_tag.replace(":7:", f":{most + 1}:")), ("no number", one_tag.replace(":7:", "::")),
        ("no name", one_tag.replace(":home:", "::")), ("two names", one_tag.replace(":home:", ":home:mail:")),
        ("name of no volume", one_tag.replace(":home:", ":.:")), ("cut", one_tag[:-1]), ("padded", one_tag + "="), ("more", one_tag + "A"),
        ("bits at the end", one_tag[:-1] + chr(ord(one_tag[-1]) + 1)), ("the other alphabet", tags["a name of signs"].replace("/", "_")),
    ]
    made = [{"name": name, "kind": "tag", "bytes": data.encode().hex(), "fields": read_tag(data.encode())} for name, data in tags.items()]
    for name, data in bad_tags:
        try:
            read_tag(data.encode())
            raise AssertionError(f"{name} is taken")
        except Malformed as error:
            made.append({"name": name, "kind": "tag", "bytes": data.encode().hex(), "error": str(error)})
    made += [{"name": name, "kind": "request", "bytes": data.hex(), "fields": read_request(data)} for name, data in good.items()]
    made += [{"name": name, "kind": "answer", "bytes": data.hex(), "fields": read_answer(data)} for name, data in answers.items()]
    for kind, read, cases in (("request", read_request, bad), ("answer", read_answer, bad_answers)):
        for name, data in cases:
            try:
                read(data)
                raise AssertionError(f"{name} is taken")
            except Malformed as error:
                made.append({"name": name, "kind": kind, "bytes": data.hex(), "error": str(error)})
    return made


def check_vectors(path: Path) -> int:
    """Whether the file is what the specification makes; how many there are."""
    kept = json.loads(path.read_text())
    assert kept == vectors(), f"{path.name} is not what helper.py makes"
    return len(kept)


if __name__ == "__main__":
    where = Path(__file__).parent / "helper-vectors.json"
    where.write_text(json.dumps(vectors(), indent=1, ensure_ascii=False) + "\n")
    print(f"{check_vectors(where)} vectors", file=sys.stderr)
