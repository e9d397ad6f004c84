# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""What an administrator does with our programs on a standby, and how he gets a copy going again."""

from __future__ import annotations

import os
import signal

from contents import Content, attach, mark
from hosts import tool
from model import USABLE, Copy, Skip, World, Wrong, has, kind
from ours import anyone, place, transfer


def restart(world: World, how: int) -> None:
    standby = world.rng.choice(world.site.standbys)
    standby.stop(how)
    standby.start()
    world.did(f"daemon {standby.name} ended by signal {how} and started")
    for copy in world.everyone:
        if copy.standby is standby:
            world.audit(copy)


@kind(3)
def restart_of_a_daemon(world: World) -> None:
    restart(world, signal.SIGTERM)


@kind(2)
def crash_of_a_daemon(world: World) -> None:
    restart(world, signal.SIGKILL)


@kind(5)
def scrub(world: World) -> None:
    copy = anyone(world, chain=True)
    before = world.guard() | {copy.path: mark(copy.path)}
    result = world.blockferryd(copy.standby, "scrub", copy.volume, "--json")
    world.settle(copy)
    world.guarded(before)
    if result.code == 0:
        world.is_right(copy, copy.generations.get(result.json["generation_id"], copy.attempts), "scrub")


@kind(3)
def promote(world: World) -> None:
    copy = anyone(world)
    former = world.status(copy)
    again = bool(former) and former["state"] == "promoted"
    unsure = has("blockferryd promote", "--without-check") and world.rng.random() < 0.1
    result = world.blockferryd(copy.standby, "promote", copy.volume, *(["--without-check"] if unsure else []),
                               kill_after=world.rng.random() * 0.03 if world.rng.random() < 0.2 else None)
    world.settle(copy)
    status = world.status(copy)
    if result.code == 0 or result.code == -9 and status and status["state"] == "promoted":
        # A second promotion finds what the operator has made of the copy.
        if not unsure and not again:
            right = copy.generations.get(status["generation_id"], copy.attempts)
            faults = [world.see(copy, content) for content in right]
            if right and None not in faults:
                raise Wrong("promote", f"{copy} is not generation {status['generation']}: {faults[-1]}; {copy.touched}")
            if not copy.touched and status["generation"] < copy.number:
                raise Wrong("promote", f"{copy} was promoted at {status['generation']}, {copy.number} was committed")
        copy.promoted = mark(copy.path)
        copy.touched.append("promoted")
        if copy.path.exists() and not copy.path.is_block_device() and world.rng.random() < 0.7:
            size = os.stat(copy.path).st_size
            with open(copy.path, "r+b") as file:
                os.pwrite(file.fileno(), world.rng.randbytes(512), world.rng.randrange(max(1, size - 512)))
            world.did("the promoted copy is written")


@kind(2, ("blockferryd", "demote"))
def demote(world: World) -> None:
    copy = anyone(world)
    before = world.guard() | {copy.path: mark(copy.path)}
    result = world.blockferryd(copy.standby, "demote", copy.volume)
    world.guarded(before)
    if result.code == 0:
        copy.promoted = None
        copy.touched.append("demoted")


@kind(2)
def status_of_a_standby(world: World) -> None:
    standby = world.rng.choice(world.site.standbys)
    world.blockferryd(standby, "status", *world.rng.choice([[], ["--json"]]))
    world.blockferryd(standby, *world.rng.choice([["volumes"], ["peers"], ["id"]]))


@kind(1)
def keep(world: World) -> None:
    """Only thin volumes keep generations: of others it is refused, and shown."""
    copy = anyone(world)
    world.blockferryd(copy.standby, "keep", copy.volume, *world.rng.choice([[], ["--generations", "3"], ["--off"]]))


def begin_anew(world: World, copy: Copy) -> int:
    world.blockferryd(copy.standby, "reset", copy.volume, "--overwrite")
    world.blockferry("forget", *place(copy))
    copy.forget()
    copy.touched.append("reset")
    return transfer(world, "send", copy)


@kind(1)
def reset_and_forget(world: World) -> None:
    copy = anyone(world)
    if not copy.promoted:
        begin_anew(world, copy)


@kind(1.5)
def invite_again(world: World) -> None:
    copy = anyone(world)
    world.pair(copy)


@kind(1)
def invite_what_is_taken(world: World) -> None:
    """A second volume for a target that has one, by some name of it, from this state directory or another."""
    copy, other = world.rng.sample(world.copies, 2)
    # What he has put in its place is nobody's target.
    if not copy.path.exists() or copy.touched:
        raise Skip
    # A device has no mark, so that only its own standby knows whose it is.
    if copy.path.is_block_device():
        other = copy
    world.unique += 1
    path, real = copy.path, copy.path.resolve()
    how = world.rng.choice(["path", "symbolic", "hard", "bind", "loop"])
    if how != "path":
        path = world.site.path / f"another-name-{world.unique}"
    if how == "symbolic" or how != "path" and real.is_block_device():
        path.symlink_to(real)
    elif how == "hard":
        path = real.with_name(path.name)
        path.hardlink_to(real)
    elif how == "bind":
        path.touch()
        tool("mount", "--bind", real, path)
    elif how == "loop":
        path = attach(real, world.site.loops)
    name = f"second{world.unique}"
    result = world.blockferryd(other.standby, "invite", name, "--target", path, "--address", other.standby.address)
    if how == "bind" and not real.is_block_device():
        tool("umount", path)
    elif how == "loop" and not real.is_block_device():
        tool("losetup", "-d", world.site.loops.pop())
    if result.code == 0:
        raise Wrong("two-owners", f"{path} ({how}) of {copy} became the target of {name} too")


@kind(1)
def invite_what_is_not_empty(world: World) -> None:
    """What somebody keeps there, or our own state, is no target without a word."""
    standby = world.rng.choice(world.site.standbys)
    choice = world.rng.choice(["catalog", "identity", "file system", "letters"])
    world.unique += 1
    if choice in ("catalog", "identity"):
        path = standby.state / {"catalog": "catalog.sqlite", "identity": "identity.pem"}[choice]
    else:
        path = world.site.attic / f"holds-{world.unique}"
        path.write_bytes(b"letter\n" * 100_000 if choice == "letters" else bytes(4 << 20))
        if choice == "file system":
            tool("mkfs.ext4", "-q", "-F", path)
    result = world.blockferryd(standby, "invite", f"new{world.unique}", "--target", path, "--address", standby.address)
    if result.code == 0:
        raise Wrong("occupied", f"{choice} became a target")


@kind(1)
def unpair_and_pair(world: World) -> None:
    copy = anyone(world)
    id_ = world.site.blockferry("id").out.strip()
    world.blockferryd(copy.standby, "unpair", id_)
    for each in world.everyone:
        if each.standby is copy.standby:
            world.pair(each)


@kind(3, ("blockferryd", "retarget"))
def retarget(world: World) -> None:
    """To a copy of the copy, which is right, or to something else, which is not."""
    copy = anyone(world)
    if not copy.path.exists() or copy.promoted:
        raise Skip
    other = world.rng.choice(world.copies)
    if not other.path.exists():
        raise Skip
    path = world.new_path(f"retarget-{copy.volume}-{copy.standby.name}")
    known = [content for contents in copy.generations.values() for content in contents]
    with open(other.path if world.rng.random() < 0.4 else copy.path, "rb") as file:
        path.write_bytes(file.read(known[-1].size if known else None))
    more = ["--for-resync"] if world.rng.random() < 0.3 else []
    result = world.blockferryd(copy.standby, "retarget", copy.volume, path, *more)
    if result.code == 0:
        copy.path, copy.may_be_longer = path, True
        status = world.status(copy)
        if status["state"] in USABLE:
            world.is_right(copy, copy.generations.get(status["generation_id"], copy.attempts), "retarget")


def remove_and_invite(world: World, copy: Copy) -> int:
    """The last resort: the volume is given up on both sides, and begins with a new target."""
    world.unique += 1
    if has("blockferryd", "remove"):
        result = world.blockferryd(copy.standby, "remove", copy.volume)
        if result.code == 0 and world.status(copy) is not None:
            raise Wrong("not-removed", f"{copy} is still in status")
    else:
        copy.volume = f"{copy.volume.split('.')[0]}.{world.unique}"
    world.blockferry("forget", *place(copy))
    copy.forget()
    copy.path = world.new_path(f"copy-{copy.standby.name}")
    world.pair(copy)
    return transfer(world, "send", copy)


@kind(0.7)
def remove_and_begin_anew(world: World) -> None:
    remove_and_invite(world, anyone(world))


def get_going(world: World, copy: Copy) -> None:
    """What stands in the way is taken away, and then the manual's steps lead to a right copy, one of them at the latest."""
    clear_the_way(world)
    adopt = [option for option in ("--adopt-source", "--allow-shrink") if has("blockferry resync", option)]
    world.settle(copy)
    for _ in range(3):
        code = transfer(world, "resync", copy, *adopt)
        if code == 0:
            return
        if code not in (3, 4, 5):
            break
    if copy.promoted or code == 7:
        if has("blockferryd", "demote"):
            if world.blockferryd(copy.standby, "demote", copy.volume).code == 0:
                copy.promoted = None
        if transfer(world, "resync", copy, "--overwrite-promoted", *adopt) == 0:
            return
    if world.rng.random() < 0.5 and not copy.promoted and begin_anew(world, copy) == 0:
        return
    for _ in range(3):
        if remove_and_invite(world, copy) == 0:
            return
    raise Wrong("stuck", f"{copy} cannot be brought up to date by anything in the manual: {world.status(copy)}")


def clear_the_way(world: World) -> None:
    for name, remove in reversed(list(world.obstacles.items())):
        remove()
        world.did(f"ended: {name}")
    world.obstacles.clear()


@kind(9)
def get_one_going(world: World) -> None:
    copy = anyone(world)
    if world.blockferry("send", *copy.source.arguments(), *place(copy), "--dry-run").code == 0 and not copy.touched:
        return
    get_going(world, copy)


def see_all_right(world: World) -> None:
    """At the end every copy can be brought up to date."""
    for copy in world.copies:
        content: Content | None = copy.source.content()
        if content is None or content.size == 0:
            copy.source.write()
        get_going(world, copy)
