#!/usr/bin/env python3
# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Makes thin-pool metadata whose devices share nodes, as the kernel's do (thin_restore never shares).

Written from the description of the format alone. The image has no space maps, so the trees hang off a
metadata snapshot too: tools can read it with -m. Prints one JSON object a line and device: id, and its
mappings as [[thin block, data block, length, time], ...].

  thin_pool.py random SEED DEVICES CAPACITY IMAGE      random writes, discards and snapshots
  thin_pool.py bulk MAPPINGS CHANGES RUN SHARED IMAGE  two devices, CHANGES scattered blocks apart
"""
import array
import bisect
import json
import random
import struct
import sys

TABLE = []
for value in range(256):
    for _ in range(8):
        value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    TABLE.append(value)
WIDE = [TABLE[(TABLE[i & 255] ^ (i >> 8)) & 255] ^ (TABLE[i & 255] >> 8) for i in range(65536)]


def seal(block, salt):
    """Puts the checksum in front of the 4092 bytes that it covers."""
    state = 0xFFFFFFFF
    for word in array.array("H", block):
        state = WIDE[(state ^ word) & 0xFFFF] ^ (state >> 16)
    return struct.pack("<I", state ^ salt) + block


class Node:
    __slots__ = ("leaf", "keys", "values", "owner", "block")

    def __init__(self, leaf, keys, values, owner):
        self.leaf, self.keys, self.values, self.owner, self.block = leaf, keys, values, owner, None

    def own(self, owner):
        """This node, or a copy if somebody else may be looking at it: that is the shadowing."""
        return self if self.owner == owner else Node(self.leaf, self.keys[:], self.values[:], owner)


def split(node, capacity, owner):
    if len(node.keys) <= capacity:
        return [node]
    middle = len(node.keys) // 2
    right = Node(node.leaf, node.keys[middle:], node.values[middle:], owner)
    del node.keys[middle:], node.values[middle:]
    return [node, right]


def insert(node, key, value, owner, capacity):
    node = node.own(owner)
    if node.leaf:
        at = bisect.bisect_left(node.keys, key)
        if at < len(node.keys) and node.keys[at] == key:
            node.values[at] = value
        else:
            node.keys.insert(at, key)
            node.values.insert(at, value)
    else:
        at = max(bisect.bisect_right(node.keys, key) - 1, 0)
        node.keys[at] = min(node.keys[at], key)
        parts = insert(node.values[at], key, value, owner, capacity)
        node.values[at:at + 1] = parts
        node.keys[at:at + 1] = [node.keys[at]] + [part.keys[0] for part in parts[1:]]
    return split(node, capacity, owner)


def remove(node, key, owner, capacity):
    """The node without the key. Bounds above may stay too low."""
    node = node.own(owner)
    if node.leaf:
        at = bisect.bisect_left(node.keys, key)
        if at < len(node.keys) and node.keys[at] == key:
            del node.keys[at], node.values[at]
    else:
        at = bisect.bisect_right(node.keys, key) - 1
        if at >= 0:
            node.values[at] = remove(node.values[at], key, owner, capacity)
            if len(node.values[at].keys) < capacity // 3 and len(node.keys) > 1:
                refill(node, max(at - 1, 0), owner, capacity)
    return node


def refill(node, at, owner, capacity):
    """Joins two children, or shares out their entries: no node but a root may be less than a third full."""
    left, right = node.values[at], node.values[at + 1]
    keys, values = left.keys + right.keys, left.values + right.values
    middle = len(keys) if len(keys) < 2 * (capacity // 3 + 1) else len(keys) // 2
    parts = [Node(left.leaf, keys[a:b], values[a:b], owner)
             for a, b in ((0, middle), (middle, len(keys))) if a < b]
    node.keys[at + 1:at + 2] = [part.keys[0] for part in parts[1:]]
    node.values[at:at + 2] = parts


class Device:
    def __init__(self, number, root, model, transaction, time):
        self.number, self.root, self.model = number, root, model
        self.transaction, self.created, self.snapped = transaction, time, time
        self.owner = object()


class Pool:
    def __init__(self, capacity, rng):
        self.capacity, self.rng = capacity, rng
        self.devices, self.time, self.next_data = [], 0, 0

    def create(self, number):
        device = Device(number, None, {}, len(self.devices), self.time)
        device.root = Node(True, [], [], device.owner)
        self.devices.append(device)
        return device

    def snapshot(self, origin, number):
        self.time += 1
        device = Device(number, origin.root, dict(origin.model), len(self.devices), self.time)
        origin.owner, origin.snapped = object(), self.time
        self.devices.append(device)
        return device

    def write(self, device, block):
        data, self.next_data = self.next_data, self.next_data + 1
        device.model[block] = (data, self.time)
        parts = insert(device.root, block, data << 24 | self.time, device.owner, self.capacity)
        if len(parts) > 1:
            parts = [Node(False, [part.keys[0] for part in parts], parts, device.owner)]
        device.root = parts[0]

    def discard(self, device, block):
        if device.model.pop(block, None) is None:
            return
        # A root with one child stays until the next removal.
        while not device.root.leaf and len(device.root.keys) == 1:
            device.root = device.root.values[0].own(device.owner)
        device.root = remove(device.root, block, device.owner, self.capacity)

    def save(self, path, block_sectors=128, shuffle=True):
        nodes = []

        def collect(node):
            if node.block is None:
                node.block = 0
                nodes.append(node)
                if not node.leaf:
                    for child in node.values:
                        collect(child)

        for device in self.devices:
            collect(device.root)
        numbers = list(range(2, 2 + len(nodes)))
        if shuffle:
            self.rng.shuffle(numbers)
        for node, number in zip(nodes, numbers):
            node.block = number
        end = 2 + len(nodes)
        devices = sorted(self.devices, key=lambda device: device.number)
        top, end = self.index(
            [(d.number, struct.pack("<Q", d.root.block)) for d in devices], 8, end)
        details, end = self.index(
            [(d.number, struct.pack("<QQII", len(d.model), d.transaction, d.created, d.snapped))
             for d in devices], 24, end)
        with open(path, "wb") as file:
            for node in nodes:
                values = node.values if node.leaf else [child.block for child in node.values]
                packed = struct.pack(f"<{len(values)}Q", *values)
                file.seek(node.block * 4096)
                file.write(self.node(node.block, node.leaf, node.keys, packed, 8, self.capacity))
            for number, block in top + details:
                file.seek(number * 4096)
                file.write(block)
            for number, held, data in ((1, 0, 0), (0, 1, self.next_data)):
                body = struct.pack("<IQ16sQIIQQ", 0, number, bytes(16), 27022010, 2, self.time,
                                   len(self.devices), held)
                body += struct.pack("<Q248x", data)
                body += struct.pack("<QQIIQIII", top[-1][0], details[-1][0], block_sectors, 8, end,
                                    0, 0, 0)
                file.seek(number * 4096)
                file.write(seal(body.ljust(4092, b"\0"), 160774))

    def index(self, entries, size, start):
        """A small tree of ready values: leaves, and a root if there is more than one."""
        room = 126 if size == 24 else 252
        blocks, parents = [], []
        for first, end in shares(len(entries), room) or [(0, 0)]:
            part = entries[first:end]
            keys = [key for key, _ in part]
            parents.append((keys[0] if keys else 0, struct.pack("<Q", start)))
            blocks.append((start, self.node(start, True, keys, b"".join(v for _, v in part), size, room)))
            start += 1
        if len(parents) > 1:
            keys = [key for key, _ in parents]
            blocks.append((start, self.node(start, False, keys, b"".join(v for _, v in parents), 8, 252)))
            start += 1
        return blocks, start

    @staticmethod
    def node(number, leaf, keys, values, size, capacity):
        body = struct.pack("<IQIIII", 2 if leaf else 1, number, len(keys), capacity, size, 0)
        body += struct.pack(f"<{len(keys)}Q", *keys) + bytes(8 * (capacity - len(keys))) + values
        return seal(body.ljust(4092, b"\0"), 121107)

    def answers(self):
        for device in sorted(self.devices, key=lambda device: device.number):
            runs = []
            for block in sorted(device.model):
                data, time = device.model[block]
                if runs and runs[-1][0] + runs[-1][2] == block and runs[-1][3] == time \
                        and runs[-1][1] + runs[-1][2] == data:
                    runs[-1][2] += 1
                else:
                    runs.append([block, data, 1, time])
            print(json.dumps({"device": device.number, "runs": runs}, separators=(",", ":")))


def make_random(seed, count, capacity, path):
    rng = random.Random(seed)
    pool = Pool(capacity, rng)
    span = rng.choice([20, 200, 2000, 1 << 40])
    numbers = rng.sample(range(1 << 24 if rng.random() < 0.5 else 4 * count), count)

    def touch(device):
        for _ in range(rng.randrange(12)):
            start = rng.randrange(span)
            length = rng.choice([1, 1, 2, 5, 30])
            action = pool.write if rng.random() < 0.7 else pool.discard
            if rng.random() < 0.3 and device.model:
                start = rng.choice(sorted(device.model))
            for block in range(start, start + length):
                action(device, block)

    touch(pool.create(numbers[0]))
    for number in numbers[1:]:
        if rng.random() < 0.1:
            touch(pool.create(number))
        else:
            touch(pool.snapshot(rng.choice(pool.devices[-8:]), number))
            touch(rng.choice(pool.devices))
    pool.save(path)
    pool.answers()


def shares(count, most):
    """Ranges of nearly equal length, so that none is less than a third full."""
    parts = -(-count // most)
    return [(count * i // parts, count * (i + 1) // parts) for i in range(parts)]


def make_bulk(mappings, changes, run, shared, path):
    rng = random.Random(7)
    pool = Pool(252, rng)

    def build(device, fill=245):
        keys = list(range(mappings))
        values = []
        for key in keys:
            # Runs of `run` blocks, apart from one another.
            group = key // run
            values.append((group * (run + 1) + key % run) << 24)
        level = [Node(True, keys[a:b], values[a:b], device.owner) for a, b in shares(mappings, fill)]
        while len(level) > 1:
            level = [Node(False, [n.keys[0] for n in level[a:b]], level[a:b], device.owner)
                     for a, b in shares(len(level), fill)]
        device.root = level[0]

    first = pool.create(1)
    build(first)
    pool.next_data = mappings * 2 + 16
    second = pool.snapshot(first, 2)
    if not shared:
        build(second)
    changed = sorted(rng.sample(range(mappings), changes))
    for block in changed:
        pool.write(second, block)
    for device in (first, second):
        device.model = range(mappings)
    pool.save(path, shuffle=False)
    print(json.dumps({"changed": changed}))


def main():
    if sys.argv[1] == "random":
        make_random(int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
    else:
        make_bulk(*(int(word) for word in sys.argv[2:6]), sys.argv[6])


if __name__ == "__main__":
    main()
