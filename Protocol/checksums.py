# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""CRC-32C, XXH3-64, Poly1305 and the two tag algorithms, from their public definitions.

The only part that `decode.py` and `encode.py` share. `decode.py selftest` proves it against published values and,
where it is installed, against libxxhash.
"""

from __future__ import annotations

import hashlib
import struct
from functools import lru_cache
from itertools import accumulate
from operator import mul

_MASK = (1 << 64) - 1


# CRC-32C ----------------------------------------------------------------------------------------------------------

def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """Castagnoli CRC, reflected, with final inversion."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


# XXH3-64, seed 0 --------------------------------------------------------------------------------------------------

_P32_1, _P32_2, _P32_3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
_P64_1, _P64_2, _P64_3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_P64_4, _P64_5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5

_SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
    "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)


def _u32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at:at + 4], "little")


def _u64(data: bytes, at: int) -> int:
    return int.from_bytes(data[at:at + 8], "little")


def _fold(a: int, b: int) -> int:
    """The 128-bit product, its halves xored."""
    product = a * b
    return (product & _MASK) ^ (product >> 64)


def _rotate(value: int, by: int) -> int:
    return ((value << by) | (value >> (64 - by))) & _MASK


def _avalanche(h: int) -> int:
    h &= _MASK
    h ^= h >> 37
    h = h * 0x165667919E3779F9 & _MASK
    return h ^ (h >> 32)


def _avalanche64(h: int) -> int:
    h ^= h >> 33
    h = h * _P64_2 & _MASK
    h ^= h >> 29
    h = h * _P64_3 & _MASK
    return h ^ (h >> 32)


def _mix16(data: bytes, at: int, secret_at: int) -> int:
    return _fold(_u64(data, at) ^ _u64(_SECRET, secret_at), _u64(data, at + 8) ^ _u64(_SECRET, secret_at + 8))


def _xxh3_to_16(data: bytes) -> int:
    n = len(data)
    if n == 0:
        return _avalanche64(_u64(_SECRET, 56) ^ _u64(_SECRET, 64))
    if n <= 3:
        combined = data[0] << 16 | data[n >> 1] << 24 | data[n - 1] | n << 8
        return _avalanche64(combined ^ _u32(_SECRET, 0) ^ _u32(_SECRET, 4))
    if n <= 8:
        h = (_u32(data, n - 4) + (_u32(data, 0) << 32)) ^ _u64(_SECRET, 8) ^ _u64(_SECRET, 16)
        h ^= _rotate(h, 49) ^ _rotate(h, 24)
        h = h * 0x9FB21C651E98DF25 & _MASK
        h ^= (h >> 35) + n
        h = h * 0x9FB21C651E98DF25 & _MASK
        return h ^ (h >> 28)
    low = _u64(data, 0) ^ _u64(_SECRET, 24) ^ _u64(_SECRET, 32)
    high = _u64(data, n - 8) ^ _u64(_SECRET, 40) ^ _u64(_SECRET, 48)
    swapped = int.from_bytes(low.to_bytes(8, "little"), "big")
    return _avalanche(n + swapped + high + _fold(low, high))


def _xxh3_to_128(data: bytes) -> int:
    n = len(data)
    acc = n * _P64_1
    for i in range((n - 1) // 32, -1, -1):
        acc += _mix16(data, 16 * i, 32 * i) + _mix16(data, n - 16 * (i + 1), 32 * i + 16)
    return _avalanche(acc)


def _xxh3_to_240(data: bytes) -> int:
    n = len(data)
    acc = n * _P64_1
    for i in range(8):
        acc += _mix16(data, 16 * i, 16 * i)
    acc = _avalanche(acc)
    for i in range(8, n // 16):
        acc += _mix16(data, 16 * i, 16 * (i - 8) + 3)
    return _avalanche(acc + _mix16(data, n - 16, 136 - 17))


def _xxh3_long(data: bytes) -> int:
    n = len(data)
    acc = [_P32_3, _P64_1, _P64_2, _P64_3, _P64_4, _P32_2, _P64_5, _P32_1]

    def accumulate(at: int, key: tuple[int, ...]) -> None:
        lanes = struct.unpack_from("<8Q", data, at)
        for i in range(8):
            value = lanes[i]
            keyed = value ^ key[i]
            acc[i ^ 1] = (acc[i ^ 1] + value) & _MASK
            acc[i] = (acc[i] + (keyed & 0xFFFFFFFF) * (keyed >> 32)) & _MASK

    keys = [struct.unpack_from("<8Q", _SECRET, 8 * i) for i in range(16)]
    scramble_key = struct.unpack_from("<8Q", _SECRET, 128)
    blocks = (n - 1) // 1024
    for block in range(blocks):
        for stripe in range(16):
            accumulate(1024 * block + 64 * stripe, keys[stripe])
        for i in range(8):
            acc[i] = ((acc[i] ^ (acc[i] >> 47) ^ scramble_key[i]) * _P32_1) & _MASK
    for stripe in range((n - 1 - 1024 * blocks) // 64):
        accumulate(1024 * blocks + 64 * stripe, keys[stripe])
    accumulate(n - 64, struct.unpack_from("<8Q", _SECRET, 121))

    total = n * _P64_1
    for i in range(4):
        total += _fold(acc[2 * i] ^ _u64(_SECRET, 11 + 16 * i), acc[2 * i + 1] ^ _u64(_SECRET, 19 + 16 * i))
    return _avalanche(total)


def xxh3(data: bytes) -> int:
    """XXH3-64 with seed 0 and the default secret."""
    if len(data) <= 16:
        return _xxh3_to_16(data)
    if len(data) <= 128:
        return _xxh3_to_128(data)
    if len(data) <= 240:
        return _xxh3_to_240(data)
    return _xxh3_long(data)


# Poly1305 and tags ------------------------------------------------------------------------------------------------

_P1305 = (1 << 130) - 5
_POLY_WORDS = 4096  # of 16 bytes: a block of 64 KiB


@lru_cache(maxsize=4)
def _poly_powers(r: int) -> tuple[list[int], list[int], list[int]]:
    """r^4096 to r^1; the same times 2^64; and for each the sum from there to the end, times 2^128."""
    powers = [r]
    while len(powers) < _POLY_WORDS:
        powers.append(powers[-1] * r % _P1305)
    sums = list(accumulate(powers))
    return powers[::-1], [power << 64 for power in powers[::-1]], [total << 128 for total in sums[::-1]]


def _poly_words(r: int, words: bytes) -> int:
    """The sum of all words times their powers of r: what the loop of RFC 8439 makes of at most 4096 whole words."""
    low, high, sums = _poly_powers(r)
    halves = struct.unpack(f"<{len(words) // 8}Q", words)
    first = _POLY_WORDS - len(words) // 16
    return (sum(map(mul, halves[::2], low[first:])) + sum(map(mul, halves[1::2], high[first:])) + sums[first]) % _P1305


def poly1305(key: bytes, message: bytes) -> bytes:
    """RFC 8439, 2.5. Whole words of long messages up to a block of 64 KiB are summed at once, which is faster."""
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    s = int.from_bytes(key[16:32], "little")
    acc, start = 0, 0
    if 4096 <= len(message) < 16 * (_POLY_WORDS + 1):
        start = len(message) & ~15
        acc = _poly_words(r, message[:start])
    for at in range(start, len(message), 16):
        acc = (acc + int.from_bytes(message[at:at + 16] + b"\x01", "little")) * r % _P1305
    return ((acc + s) & ((1 << 128) - 1)).to_bytes(16, "little")


def tag(algorithm: int, key: bytes, content: bytes) -> bytes:
    """The 16-byte tag of one block's content: 1 poly1305, 2 sha256."""
    if algorithm == 1:
        return poly1305(key, content)
    if algorithm == 2:
        return hashlib.sha256(key + content).digest()[:16]
    raise ValueError(f"tag algorithm {algorithm}")
