# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""What an administrator does with other programs: to sources, targets, file systems and both states."""

from __future__ import annotations

import errno
import mmap
import os
import pathlib
import shutil

from contents import BLOCK, Classic, Thin, attach, mark, noise, write_at
from hosts import hold_as_an_emulator, tool
from model import Copy, Skip, World, kind
from ours import anyone


# The standby looks at 64 blocks before it takes anything: of copies no larger than this at all.
LARGEST = 64 * BLOCK


def a_source(world: World, *kinds: str):
    sources = [source for source in world.sources if not kinds or source.kind in kinds]
    if not sources:
        raise Skip
    return world.rng.choice(sources)


def a_copy(world: World, *, file: bool = False) -> Copy:
    """A copy whose target is there, and which the operator has not taken into use."""
    copy = anyone(world)
    if not copy.path.exists() or copy.path.resolve() in world.held or file and copy.path.is_block_device():
        raise Skip
    return copy


def real(copy: Copy) -> pathlib.Path:
    return copy.path.resolve()


def touched(world: World, copy: Copy, how: str) -> None:
    copy.touched, copy.may_be_longer = (copy.touched + [how])[-6:], True
    if copy.promoted:
        copy.promoted = mark(copy.path)
    world.did(f"{copy}: {how}")


# Sources


@kind(8)
def write_to_a_source(world: World) -> None:
    source = a_source(world)
    world.did(f"{source.kind} {source.files()[-1].name}: {source.write()}")


@kind(4)
def write_and_put_the_time_back(world: World) -> None:
    source = a_source(world)
    times = [(path, os.stat(path)) for path in source.files()]
    said = source.write()
    for path, facts in times:
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    world.did(f"{source.kind} {source.files()[-1].name}: {said}, and touch -r")


@kind(2)
def write_through_a_mapping(world: World) -> None:
    source = a_source(world, "file")
    with open(source.path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        at = world.rng.randrange(len(memory) - 512)
        memory[at:at + 512] = noise(world.rng, 512)
    world.did(f"{source.path.name}: 512 bytes at {at} by mmap")


@kind(1)
def cut_a_source(world: World) -> None:
    source = a_source(world, "file")
    size = max(BLOCK, source.size() - world.rng.choice([512, BLOCK, 5 * BLOCK]))
    os.truncate(source.path, size)
    world.did(f"truncate --size {size} {source.path.name}")


@kind(1)
def grow_a_source(world: World) -> None:
    source = a_source(world, "file")
    size = min(LARGEST, source.size() + world.rng.choice([512, BLOCK, 5 * BLOCK]))
    os.truncate(source.path, size)
    world.did(f"truncate --size {size} {source.path.name}")


@kind(1)
def punch_a_source(world: World) -> None:
    source = a_source(world, "file")
    tool("fallocate", "--punch-hole", "--offset", world.rng.randrange(8) * BLOCK, "--length", BLOCK * 2, source.path)
    world.did(f"fallocate --punch-hole {source.path.name}")


@kind(1)
def touch_a_source(world: World) -> None:
    source = a_source(world)
    os.utime(source.files()[-1])
    world.did(f"touch {source.files()[-1].name}")


@kind(2)
def copy_over_a_source(world: World) -> None:
    """cp OTHER SOURCE: the same file has other content."""
    source, other = a_source(world, "file"), world.rng.choice(world.sources)
    data = other.files()[-1].read_bytes()[:LARGEST]
    if other is source or not data:
        raise Skip
    with open(source.path, "r+b") as file:
        file.truncate(0)
        file.write(data)
    world.did(f"cp {other.files()[-1].name} {source.path.name}")


@kind(1.5)
def move_over_a_source(world: World) -> None:
    """cp -a and mv: another file under the same name, with the same times, and the same content or nearly."""
    source = a_source(world)
    path = world.rng.choice(source.files())
    if source.kind == "loop":
        raise Skip
    fresh = path.with_suffix(".new")
    tool("cp", "-a", path, fresh)
    how = "cp -a and mv over"
    if source.kind == "file" and world.rng.random() < 0.5:
        facts = os.stat(path)
        write_at(fresh, world.rng.randrange(source.size()), b"another")
        os.utime(fresh, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        how = "cp -a, written, touch -r, mv over"
    os.replace(fresh, path)
    # A hard link still names the former file.
    source.given = source.given and path
    world.did(f"{how} {path.name}")


@kind(3)
def swap_two_sources(world: World) -> None:
    first, second = world.sources
    if first.kind != second.kind:
        raise Skip
    if first.kind == "loop":
        for path in (first.path, second.path):
            path.unlink()
        first.backing, second.backing = second.backing, first.backing
        first.attach(), second.attach()
    else:
        aside = first.path.with_suffix(".aside")
        os.rename(first.path, aside)
        os.rename(second.path, first.path)
        os.rename(aside, second.path)
        first.given, second.given = first.path, second.path
    world.did("the two sources change places")


@kind(1)
def other_name_of_a_source(world: World) -> None:
    """A hard link or a symbolic one: the same object."""
    source = a_source(world, "file")
    world.unique += 1
    name = source.path.with_name(f"name-{world.unique}")
    if world.rng.random() < 0.5:
        os.link(source.path, name)
    else:
        name.symlink_to(source.path)
    source.given = world.rng.choice([name, source.path])
    world.did(f"ln {source.path.name} {name.name}")


@kind(1.5)
def attach_a_source_anew(world: World) -> None:
    source = a_source(world, "loop")
    source.attach()
    world.did(f"losetup {source.backing.name}: another number")


@kind(2)
def pool_made_by_the_same_script(world: World) -> None:
    """Images of another pool, made in the same way, or of another origin, under the names of the first."""
    source = a_source(world, "thin", "classic")
    folder = source.paths[0].parent / f"other-{world.unique}"
    world.unique += 1
    folder.mkdir()
    made = type(source)(folder, source.paths[0].stem, world.rng, source.bytes)
    if isinstance(made, Thin):
        while made.number < source.number:
            made.write()
    if isinstance(made, Classic) and world.rng.random() < 0.5:
        made.snap()
    for path, former in zip(made.paths, source.paths):
        os.replace(path, former)
    made.paths = source.paths
    world.sources[world.sources.index(source)] = made
    for copy in world.copies:
        copy.source = made if copy.source is source else copy.source
    world.did(f"another {made.kind} of the same names")


# Targets


@kind(3)
def write_to_a_target(world: World) -> None:
    copy = a_copy(world)
    facts = os.stat(real(copy))
    with open(real(copy), "r+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        places = [world.rng.randrange(max(1, min(size, 1 << 20) - 512)) for _ in range(world.rng.choice([1, 3]))]
        for at in places:
            os.pwrite(file.fileno(), noise(world.rng, 512), at)
        os.fsync(file.fileno())
    back = world.rng.random() < 0.5 and not copy.path.is_block_device()
    if back:
        os.utime(real(copy), ns=(facts.st_atime_ns, facts.st_mtime_ns))
    touched(world, copy, f"written at {places}" + (" and touch -r" if back else ""))


@kind(1.5)
def cut_a_target(world: World) -> None:
    copy = a_copy(world, file=True)
    size = os.stat(real(copy)).st_size
    os.truncate(real(copy), world.rng.choice([size // 2, max(0, size - 512), 0]))
    touched(world, copy, "cut")


@kind(1)
def grow_a_target(world: World) -> None:
    copy = a_copy(world, file=True)
    os.truncate(real(copy), os.stat(real(copy)).st_size + world.rng.choice([512, BLOCK]))
    touched(world, copy, "grown")


@kind(1.5)
def zeros_over_a_target(world: World) -> None:
    copy = a_copy(world)
    with open(real(copy), "r+b", buffering=0) as file:
        size = min(file.seek(0, os.SEEK_END), 8 << 20)
        os.pwrite(file.fileno(), bytes(size), 0)
        os.fsync(file.fileno())
    touched(world, copy, "zeros")


@kind(1.5)
def copy_over_a_target(world: World) -> None:
    """cp OTHER-COPY COPY: the same file, the content of another copy."""
    copy = a_copy(world, file=True)
    other = world.rng.choice(world.copies)
    if other is copy or not other.path.exists():
        raise Skip
    with open(other.path, "rb") as file:
        data = file.read(8 << 20)
    with open(real(copy), "r+b") as file:
        file.truncate(0)
        file.write(data)
    touched(world, copy, f"cp {other} over it")


@kind(1.5)
def swap_two_targets(world: World) -> None:
    first, second = world.rng.sample(world.copies, 2)
    if not all(one.path.exists() and not one.path.is_block_device() and real(one) not in world.held for one in (first, second)):
        raise Skip
    one, two = real(first), real(second)
    if one == two:
        raise Skip
    aside = world.new_path("aside")
    os.rename(one, aside)
    os.rename(two, one)
    os.rename(aside, two)
    for copy in (first, second):
        touched(world, copy, f"mv: {first} and {second} change places")


@kind(1.5)
def remove_a_target(world: World) -> None:
    copy = a_copy(world, file=True)
    os.unlink(real(copy))
    touched(world, copy, "removed")


@kind(1)
def move_a_target_away(world: World) -> None:
    copy = a_copy(world, file=True)
    path, aside = real(copy), world.new_path("away")
    os.rename(path, aside)
    world.did(f"mv {path.name} away")
    touched(world, copy, "moved away")

    def back() -> None:
        if aside.exists() and not path.exists():
            os.rename(aside, path)
    world.obstacles[f"{copy} moved away"] = back


@kind(2.5)
def restore_a_target(world: World) -> None:
    """An older copy of the target is put back: into the same file, or as another file of the same name."""
    copy = a_copy(world, file=True)
    saved = world.site.attic / f"target-{copy.standby.name}-{world.copies.index(copy)}"
    if not saved.exists() or world.rng.random() < 0.4:
        shutil.copyfile(real(copy), saved)
        world.did(f"cp {copy} to the attic")
        return
    if world.rng.random() < 0.5:
        shutil.copyfile(saved, real(copy))
        touched(world, copy, "an older copy by cp")
    else:
        aside = world.new_path("restored")
        shutil.copy2(saved, aside)
        os.replace(aside, real(copy))
        touched(world, copy, "an older copy by mv")


@kind(4)
def link_to_another_target(world: World) -> None:
    """The symbolic link that is a target's path leads elsewhere: to a stranger, to another copy, or back."""
    links = [copy for copy in world.copies if copy.path.is_symlink() and copy.path.exists()]
    if not links:
        raise Skip
    copy = world.rng.choice(links)
    former = os.readlink(copy.path)
    stranger = world.new_path("stranger")
    if copy.path.is_block_device():
        stranger = world.site.attic / stranger.name
    with open(copy.path, "rb") as file:
        data = bytearray(file.read(8 << 20))
    choice = world.rng.choice(["equal", "equal", "noise", "zeros"])
    if choice == "noise":
        data = bytearray(noise(world.rng, len(data)))
    elif choice == "zeros":
        data = bytearray(len(data))
    stranger.write_bytes(data)
    world.strangers[stranger] = None
    to = stranger
    if copy.path.is_block_device():
        to = pathlib.Path(world.link_to_loop(world.site.path / f"stranger{world.unique}", stranger)).readlink()
    copy.path.unlink()
    copy.path.symlink_to(to)
    touched(world, copy, f"its link leads to another file ({choice})")

    def back() -> None:
        if copy.path.is_symlink() and str(copy.path.readlink()) == str(to):
            copy.path.unlink()
            copy.path.symlink_to(former)
    world.obstacles[f"link of {copy} to {stranger.name}"] = back


@kind(3)
def hold_a_copy_open(world: World) -> None:
    """As an emulator does whose guest uses the copy."""
    copy = a_copy(world, file=True)
    path = real(copy)
    handle = hold_as_an_emulator(path)
    world.held[path] = handle
    world.did(f"a guest begins to use {copy}")

    def let_go() -> None:
        os.close(world.held.pop(path))
    world.obstacles[f"guest of {copy}"] = let_go


# File systems


def disk(world: World):
    return next(system for system in world.site.systems if system.at == world.site.disk)


@kind(2)
def unmount_the_targets(world: World) -> None:
    system = disk(world)
    if world.held or not system.unmount():
        raise Skip
    world.did("umount of the targets' file system")
    for copy in world.everyone:
        copy.touched.append("unmounted")

    def mount() -> None:
        if not system.is_mounted:
            system.mount()
        # What was put below the mount point meanwhile cannot be reached any more.
        for copy in world.everyone:
            copy.touched.append("mounted")
    world.obstacles["unmounted"] = mount


@kind(1.5)
def mount_the_targets_anew(world: World) -> None:
    """The file system has another device number afterwards."""
    system = disk(world)
    if world.held or not system.is_mounted or not system.unmount():
        raise Skip
    spare = world.site.attic / "spare"
    spare.write_bytes(bytes(BLOCK))
    if len(world.site.loops) < 12:
        attach(spare, world.site.loops)
    system.mount()
    world.did("the targets' file system is mounted by another device")


@kind(2.5)
def fill_the_disk(world: World) -> None:
    filler = world.site.disk / "filler"
    if filler.exists() or not disk(world).is_mounted:
        raise Skip
    free = os.statvfs(world.site.disk)
    room = free.f_bavail * free.f_frsize - world.rng.choice([0, 64 << 10, 1 << 20])
    try:
        with open(filler, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(4096, room))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    world.did("the targets' file system is full")
    world.obstacles["full"] = lambda: filler.unlink(missing_ok=True)


@kind(5)
def clear_an_obstacle(world: World) -> None:
    if not world.obstacles:
        raise Skip
    # The last one first: what lies under a mount point can be reached again only when that is mounted.
    name, remove = world.obstacles.popitem()
    remove()
    world.did(f"ended: {name}")


# States


def back_up(world: World, state: pathlib.Path) -> None:
    world.unique += 1
    saved = world.site.attic / f"{state.name}-{world.unique}"
    tool("cp", "-a", state, saved)
    world.backups[state.name] = saved
    world.did(f"backup of {state.name}")


def restore(world: World, state: pathlib.Path) -> None:
    shutil.rmtree(state)
    tool("cp", "-a", world.backups[state.name], state)
    world.did(f"{state.name} is restored")


@kind(2)
def save_a_state(world: World) -> None:
    """With the daemon stopped, as it should be."""
    standby = world.rng.choice([None, *world.site.standbys])
    if standby is None:
        return back_up(world, world.site.source)
    standby.stop()
    back_up(world, standby.state)
    standby.start()


@kind(2.5)
def restore_a_state(world: World) -> None:
    if not world.backups:
        raise Skip
    name = world.rng.choice(sorted(world.backups))
    standby = next((one for one in world.site.standbys if one.state.name == name), None)
    state = standby.state if standby else world.site.source
    if standby is None:
        restore(world, state)
        for copy in world.everyone:
            copy.origin = None
        return
    standby.stop()
    restore(world, state)
    standby.start()
    for copy in world.everyone:
        if copy.standby is standby:
            copy.touched.append("the standby's state restored")
            copy.promoted = None
            world.status(copy)


@kind(1.5)
def remove_maps(world: World) -> None:
    standby = world.rng.choice([None, *world.site.standbys])
    state = standby.state if standby else world.site.source
    for file in (state / "maps").iterdir():
        file.unlink() if file.is_file() else shutil.rmtree(file)
    world.did(f"rm {state.name}/maps/*")


@kind(1)
def remove_plans(world: World) -> None:
    folder = world.site.source / "plans"
    for file in folder.iterdir() if folder.exists() else []:
        file.unlink() if file.is_file() else shutil.rmtree(file)
    world.did("rm source/plans/*")


