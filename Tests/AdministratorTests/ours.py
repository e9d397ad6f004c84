# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""What an administrator does with our programs on the source's side."""

from __future__ import annotations

import json
import threading
import time

from contents import BLOCK, Content, mark, noise, write_at
from model import Copy, Skip, World, Wrong, has, kind


def anyone(world: World, chain: bool = False) -> Copy:
    return world.rng.choice(world.everyone if chain else world.copies)


def options(world: World) -> list[str]:
    return world.rng.choice([[], [], [], ["--compress", "always"], ["--sample-unchanged", "0"]])


def place(copy: Copy) -> list[str]:
    return ["--to", copy.standby.name, "--volume", copy.volume]


def content_of(copy: Copy, source) -> Content:
    content = source.content()
    if content is None or content.size == 0:
        raise Skip
    return content


def committed(world: World, copy: Copy, source, rights: list[Content], facts: dict, rule: str, adopts: bool) -> None:
    """A send, resync or import ended with 0: the copy is what was sent, to the byte."""
    world.is_right(copy, rights, rule, str(facts))
    seen = [right for right in rights if world.see(copy, right) is None]
    copy.generations[facts["generation_id"]] = seen
    copy.number, copy.attempts = facts["generation"], seen
    if source is None:
        return
    if copy.is_chain and not source.copy.touched:
        known = [content for each in source.copy.generations.values() for content in each] + source.copy.attempts
        # A device is sent as a whole, and may be larger than the volume on it.
        if not any(world.see(source.copy, content) is None for content in known):
            raise Wrong("chain", f"what was sent of {source.copy} is none of its generations")
    object_ = source.object()
    if copy.origin not in (None, object_) and not adopts:
        raise Wrong("other-source", f"{copy} was of the object {copy.origin}, and was replaced by that of {object_}")
    copy.origin = object_


def transfer(world: World, command: str, copy: Copy, *more: str, source=None, killed: str = "", right=None) -> int:
    """Runs send or resync, which may be killed or lose the daemon, and looks at the copy."""
    source = source or copy.source
    rights = right or [content_of(copy, source)]
    copy.attempt(rights)
    before = world.guard()
    overwrites = "--overwrite-promoted" in more
    words = [command, *source.arguments(), *place(copy), "--json", *more]
    beside = None
    if killed == "daemon":
        beside = lambda: copy.standby.stop(9)  # noqa: E731
    delay = world.rng.random() * 1.2 * world.site.seconds if killed else None
    result = world.blockferry(*words, kill_after=delay, beside=beside)
    if killed == "daemon":
        world.did(f"SIGKILL to the daemon after {delay * 1000:.0f} ms")
        copy.standby.start()
    world.settle(copy)
    world.guarded(before, but=copy if overwrites else None, writing=right is not None)
    adopts = "--adopt-source" in more
    if result.code == 0:
        facts = result.json
        facts = facts["result"] if command == "resync" else facts
        committed(world, copy, source, rights, facts, command, adopts)
        if overwrites:
            copy.promoted = None
    else:
        if killed or adopts or copy.origin is None:
            copy.origin = None
        world.audit(copy)
    return result.code


@kind(30)
def send(world: World) -> None:
    transfer(world, "send", anyone(world), *options(world))


@kind(14)
def send_after_a_write(world: World) -> None:
    copy = anyone(world)
    world.did(f"writes to the source: {copy.source.write()}")
    transfer(world, "send", copy, *options(world))


@kind(6)
def send_and_kill(world: World) -> None:
    copy = anyone(world)
    world.did(f"writes to the source: {copy.source.write()}")
    transfer(world, "send", copy, killed="sender")


@kind(4)
def send_and_kill_the_daemon(world: World) -> None:
    copy = anyone(world)
    world.did(f"writes to the source: {copy.source.write()}")
    transfer(world, "send", copy, killed="daemon")


@kind(4)
def send_another_source(world: World) -> None:
    copy = anyone(world)
    transfer(world, "send", copy, source=world.rng.choice(world.sources))


@kind(3, ("blockferry send", "--adopt-source"))
def send_and_adopt(world: World) -> None:
    copy = anyone(world)
    transfer(world, "send", copy, "--adopt-source")


@kind(2)
def send_and_allow_shrink(world: World) -> None:
    transfer(world, "send", anyone(world), "--allow-shrink")


@kind(4)
def send_on(world: World) -> None:
    """The copy that one standby has is sent on to the other."""
    transfer(world, "send", world.chain)


@kind(1)
def send_the_target_to_itself(world: World) -> None:
    copy = anyone(world)
    if not copy.path.exists():
        raise Skip
    before = world.guard() | {copy.path: mark(copy.path)}
    adopt = ["--adopt-source"] if has("blockferry send", "--adopt-source") and world.rng.random() < 0.5 else []
    if world.blockferry("send", copy.path, *place(copy), *adopt).code == 0:
        raise Wrong("itself", f"the target of {copy} was taken for its source")
    world.settle(copy)
    world.guarded(before)
    copy.origin = None


@kind(6)
def send_while_it_is_written(world: World) -> None:
    """Two writes, one after the other, in the order in which the file is read: what arrives is the file before, between or
    after them, or nothing."""
    copy = anyone(world)
    source = copy.source
    if source.kind not in ("file", "loop") or not source.path.exists() or source.size() < 4 * BLOCK:
        raise Skip
    before = source.path.read_bytes()[:source.size()]
    contents, data = [Content.of_bytes(before)], bytearray(before)
    writes = []
    for at in (0, len(before) - BLOCK):
        writes.append((at, noise(world.rng, 4096)))
        data[at:at + 4096] = writes[-1][1]
        contents.append(Content.of_bytes(data))
    delays = [world.rng.random() * world.site.seconds, world.rng.random() * 0.2 * world.site.seconds]

    def write() -> None:
        for delay, (at, new) in zip(delays, writes):
            time.sleep(delay)
            write_at(source.path, at, new)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        transfer(world, "send", copy, right=contents)
    finally:
        writer.join()


@kind(2)
def send_as_a_group(world: World) -> None:
    standby = world.rng.choice(world.site.standbys)
    copies = [copy for copy in world.copies if copy.standby is standby and copy.source.kind in ("file", "loop")]
    if len(copies) < 2:
        raise Skip
    rights = [content_of(copy, copy.source) for copy in copies]
    for copy, right in zip(copies, rights):
        copy.attempt([right])
    before = world.guard()
    result = world.blockferry("send", *(word for copy in copies for word in copy.source.arguments()), "--to",
                              standby.name, "--group", "all", "--json",
                              *(word for copy in copies for word in ("--volume", copy.volume)))
    for copy, right in zip(copies, rights):
        world.settle(copy)
        if result.code == 0:
            world.is_right(copy, [right], "group")
        else:
            world.audit(copy)
    world.guarded(before)


@kind(4)
def dry_run(world: World) -> None:
    copy = anyone(world, chain=True)
    content_of(copy, copy.source)
    before = world.guard() | {copy.path: mark(copy.path)}
    world.blockferry("send", *copy.source.arguments(), *place(copy), "--dry-run", "--json")
    world.settle(copy)
    world.guarded(before)


@kind(4)
def explain(world: World) -> None:
    world.blockferry("explain", *place(anyone(world, chain=True)), "--json")


@kind(4)
def resync(world: World) -> None:
    more = world.rng.choice([[], [], ["--in-place"], ["--trust-map"]])
    for option in ("--adopt-source", "--allow-shrink"):
        if has("blockferry resync", option) and world.rng.random() < 0.3:
            more = [*more, option]
    transfer(world, "resync", anyone(world), *more)


@kind(3)
def resync_and_kill(world: World) -> None:
    copy = anyone(world)
    world.did(f"writes to the source: {copy.source.write()}")
    transfer(world, "resync", copy, killed=world.rng.choice(["sender", "daemon"]))


@kind(2)
def resync_over_a_promoted_copy(world: World) -> None:
    """The right order: the standby's operator gives the copy back, then the source may overwrite it. Or without that word."""
    copy = anyone(world)
    if has("blockferryd", "demote") and world.rng.random() < 0.6:
        if world.blockferryd(copy.standby, "demote", copy.volume).code == 0:
            copy.promoted = None
    was = copy.promoted
    if transfer(world, "resync", copy, "--overwrite-promoted") == 0 and was and has("blockferryd", "demote"):
        raise Wrong("consent", f"{copy} was overwritten, and its operator has not said that it may be")


@kind(3)
def resync_plan(world: World) -> None:
    copy = anyone(world)
    right = content_of(copy, copy.source)
    before = world.guard() | {copy.path: mark(copy.path)}
    result = world.blockferry("resync", *copy.source.arguments(), *place(copy), "--plan", "--json")
    world.settle(copy)
    world.guarded(before)
    if result.code == 0:
        # What lies behind the target's end counts as zeros.
        seen = Content.of_bytes(copy.path.read_bytes()[:right.size].ljust(right.size, b"\0"))
        differing = {number for number, pair in enumerate(zip(right.blocks, seen.blocks)) if pair[0] != pair[1]}
        said = {number for extent in result.json["extents"]
                for number in range(extent["offset"] // BLOCK, -(-(extent["offset"] + extent["length"]) // BLOCK))}
        if not differing <= said or said != differing and copy.path.stat().st_size == right.size:
            raise Wrong("plan", f"{copy}: {result.json}; really {sorted(differing)}, said {sorted(said)}")


@kind(5)
def verify(world: World) -> None:
    copy = anyone(world)
    right = content_of(copy, copy.source)
    more = world.rng.choice([[], [], [], ["--sample", "20"], ["--part", "1/3"]])
    before = world.guard()
    result = world.blockferry("verify", *copy.source.arguments(), *place(copy), "--json", *more)
    world.settle(copy)
    world.guarded(before)
    if result.code == 0 and not more:
        world.is_right(copy, [right], "verify")


@kind(3)
def export(world: World) -> None:
    """The next one is made once it is said what became of the one before, be it true or not."""
    copy = anyone(world)
    right = content_of(copy, copy.source)
    world.unique += 1
    file = world.site.attic / f"{world.unique}.bfx"
    more = world.rng.choice([[], ["--discard"], ["--imported", next(reversed(copy.generations))[:12]]]) \
        if copy.export and copy.generations else []
    before = world.guard()
    result = world.blockferry("export", *copy.source.arguments(), *place(copy), "--json", "--output", file, *more)
    world.guarded(before)
    copy.origin = None
    if result.code == 0 and file.exists():
        copy.export = (file, right)


@kind(4)
def import_(world: World) -> None:
    exported = [copy for copy in world.copies if copy.export]
    if not exported:
        return export(world)
    copy = world.rng.choice(exported)
    file, right = copy.export
    killed = world.rng.random() < 0.25
    copy.attempt([right])
    before = world.guard()
    result = world.blockferryd(copy.standby, "import", copy.volume, file, "--json",
                               kill_after=world.rng.random() * 0.05 if killed else None)
    world.settle(copy)
    world.guarded(before)
    if result.code == 0:
        committed(world, copy, None, [right], result.json, "import", False)
    else:
        world.audit(copy)


@kind(2)
def import_dry_run(world: World) -> None:
    exported = [copy for copy in world.copies if copy.export]
    if not exported:
        raise Skip
    copy = world.rng.choice(exported)
    before = world.guard() | {copy.path: mark(copy.path)}
    world.blockferryd(copy.standby, "import", copy.volume, copy.export[0], "--dry-run", "--json")
    world.guarded(before)


@kind(1.5)
def forget(world: World) -> None:
    copy = anyone(world)
    world.blockferry("forget", *place(copy))
    copy.origin = None


@kind(2)
def status_of_the_source(world: World) -> None:
    result = world.blockferry("status", "--json")
    if result.code == 0:
        json.loads(result.out)


@kind(1)
def peers(world: World) -> None:
    world.blockferry("peers", "--json")
    world.blockferry("id")


@kind(2)
def cleanup(world: World) -> None:
    before = world.guard()
    world.blockferry("cleanup", *world.rng.choice([[], ["--dry-run"]]))
    world.guarded(before)


@kind(2)
def changes(world: World) -> None:
    """The list of what changed between two devices of a pool is no less than what differs."""
    pools = [source for source in world.sources if source.kind == "thin" and source.number > 3]
    if not pools:
        raise Skip
    source = world.rng.choice(pools)
    older, newer = sorted(world.rng.sample(source.pool.devices[1:], 2), key=lambda device: device.number)
    result = world.blockferry("changes", "--thin-metadata", source.paths[0], "--from", older.number, "--to", newer.number,
                              "--volume-size", source.bytes)
    if result.code == 0:
        listed = [tuple(map(int, line.split()[:2])) for line in result.out.splitlines()]
        for block in range(source.blocks):
            old, new = (device.model.get(block, (None,))[0] for device in (older, newer))
            if old != new and not any(at <= block * BLOCK < at + length for at, length in listed):
                raise Wrong("less", f"block {block} changed and is not in the list")


@kind(1, ("blockferry", "rename"))
def rename_on_both_sides(world: World) -> None:
    copy = anyone(world)
    world.unique += 1
    new = f"{copy.volume.split('.')[0]}.{world.unique}"
    if world.blockferryd(copy.standby, "rename", copy.volume, new).code == 0:
        old, copy.volume = copy.volume, new
        world.blockferry("rename", old, new, "--to", copy.standby.name)
        world.audit(copy)
