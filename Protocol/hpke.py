# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""HPKE (RFC 9180), base mode, DHKEM(X25519, HKDF-SHA256) and HKDF-SHA256, written from the RFC's text.

X25519 and AES-GCM are those of libcrypto, by way of ctypes: Python has none, and every machine that runs Blockferry has
that library. HMAC and the key schedule are Python's own. `python3 hpke.py` checks the vectors of the RFC."""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import hmac
import json
import sys
from pathlib import Path

X25519 = 1034
GET_TAG, SET_TAG = 0x10, 0x11
AES_128_GCM, AES_256_GCM = 1, 2
KEM, KDF = 0x0020, 0x0001


def _library() -> ctypes.CDLL:
    found = ctypes.CDLL(ctypes.util.find_library("crypto") or "libcrypto.so.3")
    for name in ("EVP_PKEY_new_raw_private_key", "EVP_PKEY_new_raw_public_key", "EVP_PKEY_CTX_new", "EVP_CIPHER_CTX_new",
                 "EVP_aes_128_gcm", "EVP_aes_256_gcm"):
        getattr(found, name).restype = ctypes.c_void_p
    return found


CRYPTO = _library()


def _key(make: str, data: bytes) -> ctypes.c_void_p:
    key = getattr(CRYPTO, make)(X25519, None, data, ctypes.c_size_t(len(data)))
    if not key:
        raise ValueError("no key on X25519")
    return ctypes.c_void_p(key)


def public_key(private: bytes) -> bytes:
    key = _key("EVP_PKEY_new_raw_private_key", private)
    out, size = ctypes.create_string_buffer(32), ctypes.c_size_t(32)
    result = CRYPTO.EVP_PKEY_get_raw_public_key(key, out, ctypes.byref(size))
    CRYPTO.EVP_PKEY_free(key)
    if result != 1:
        raise ValueError("no public key")
    return out.raw


def x25519(private: bytes, public: bytes) -> bytes:
    key = _key("EVP_PKEY_new_raw_private_key", private)
    peer = _key("EVP_PKEY_new_raw_public_key", public)
    context = ctypes.c_void_p(CRYPTO.EVP_PKEY_CTX_new(key, None))
    out, size = ctypes.create_string_buffer(32), ctypes.c_size_t(32)
    good = (CRYPTO.EVP_PKEY_derive_init(context) == 1 and CRYPTO.EVP_PKEY_derive_set_peer(context, peer) == 1
            and CRYPTO.EVP_PKEY_derive(context, out, ctypes.byref(size)) == 1)
    CRYPTO.EVP_PKEY_CTX_free(context)
    CRYPTO.EVP_PKEY_free(peer)
    CRYPTO.EVP_PKEY_free(key)
    if not good or not any(out.raw):
        raise ValueError("no shared secret")
    return out.raw


def _gcm(key: bytes, nonce: bytes, associated: bytes, data: bytes, tag: bytes | None) -> bytes:
    """Encrypts if there is no tag, and appends one; else decrypts."""
    context = ctypes.c_void_p(CRYPTO.EVP_CIPHER_CTX_new())
    cipher = ctypes.c_void_p(CRYPTO.EVP_aes_128_gcm() if len(key) == 16 else CRYPTO.EVP_aes_256_gcm())
    done, out = ctypes.c_int(0), ctypes.create_string_buffer(len(data) + 16)
    try:
        good = CRYPTO.EVP_CipherInit_ex(context, cipher, None, key, nonce, ctypes.c_int(tag is None)) == 1
        good = good and CRYPTO.EVP_CipherUpdate(context, None, ctypes.byref(done), associated, len(associated)) == 1
        good = good and CRYPTO.EVP_CipherUpdate(context, out, ctypes.byref(done), data, len(data)) == 1
        if tag is not None:
            good = good and CRYPTO.EVP_CIPHER_CTX_ctrl(context, SET_TAG, 16, tag) == 1
        rest = ctypes.create_string_buffer(16)
        good = good and CRYPTO.EVP_CipherFinal_ex(context, rest, ctypes.byref(done)) == 1
        if not good:
            raise ValueError("AES-GCM does not open this")
        if tag is not None:
            return out.raw[:len(data)]
        made = ctypes.create_string_buffer(16)
        CRYPTO.EVP_CIPHER_CTX_ctrl(context, GET_TAG, 16, made)
        return out.raw[:len(data)] + made.raw
    finally:
        CRYPTO.EVP_CIPHER_CTX_free(context)


def _extract(suite: bytes, salt: bytes, label: bytes, material: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + material, "sha256")


def _expand(suite: bytes, key: bytes, label: bytes, info: bytes, length: int) -> bytes:
    info = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return hmac.digest(key, info + b"\1", "sha256")[:length]


class Context:
    """Seals or opens messages in order."""

    def __init__(self, shared: bytes, info: bytes, aead: int = AES_256_GCM) -> None:
        suite = b"HPKE" + KEM.to_bytes(2, "big") + KDF.to_bytes(2, "big") + aead.to_bytes(2, "big")
        context = b"\0" + _extract(suite, b"", b"psk_id_hash", b"") + _extract(suite, b"", b"info_hash", info)
        secret = _extract(suite, shared, b"secret", b"")
        self.key = _expand(suite, secret, b"key", context, 16 if aead == AES_128_GCM else 32)
        self.base_nonce = _expand(suite, secret, b"base_nonce", context, 12)
        self.sequence = 0

    def _nonce(self) -> bytes:
        nonce = int.from_bytes(self.base_nonce, "big") ^ self.sequence
        self.sequence += 1
        return nonce.to_bytes(12, "big")

    def seal(self, associated: bytes, text: bytes) -> bytes:
        return _gcm(self.key, self._nonce(), associated, text, None)

    def open(self, associated: bytes, sealed: bytes) -> bytes:
        return _gcm(self.key, self._nonce(), associated, sealed[:-16], sealed[-16:])


def _shared(secret: bytes, encapsulated: bytes, recipient: bytes) -> bytes:
    suite = b"KEM" + KEM.to_bytes(2, "big")
    return _expand(suite, _extract(suite, b"", b"eae_prk", secret), b"shared_secret", encapsulated + recipient, 32)


def sender(recipient: bytes, ephemeral: bytes, info: bytes, aead: int = AES_256_GCM) -> Context:
    """The context of who encrypts to the public key `recipient` with the private key `ephemeral`."""
    return Context(_shared(x25519(ephemeral, recipient), public_key(ephemeral), recipient), info, aead)


def recipient(encapsulated: bytes, private: bytes, info: bytes, aead: int = AES_256_GCM) -> Context:
    return Context(_shared(x25519(private, encapsulated), encapsulated, public_key(private)), info, aead)


def private_key(pem: bytes) -> bytes:
    """The private key in a PKCS#8 file: the last 32 bytes (RFC 8410 7)."""
    import base64
    lines = [line for line in pem.decode().splitlines() if line and not line.startswith("-")]
    data = base64.b64decode("".join(lines))
    if len(data) != 48 or data[:16].hex() != "302e020100300506032b656e04220420":
        raise ValueError("no key on X25519")
    return data[-32:]


def check_vectors(path: Path) -> int:
    count = 0
    for vector in json.loads(path.read_text()):
        values = {name: bytes.fromhex(value) for name, value in vector.items() if isinstance(value, str) and name != "from"}
        info, aead = values["info"], vector["aead_id"]
        assert public_key(values["skEm"]) == values["enc"] and public_key(values["skRm"]) == values["pkRm"]
        for sequence, found in vector["encryptions"].items():
            for context in (sender(values["pkRm"], values["skEm"], info, aead),
                            recipient(values["enc"], values["skRm"], info, aead)):
                context.sequence = int(sequence)
                aad, text, sealed = (bytes.fromhex(found[name]) for name in ("aad", "pt", "ct"))
                made = context.seal(aad, text)
                context.sequence = int(sequence)
                assert made == sealed and context.open(aad, sealed) == text, (vector["from"], sequence)
                count += 1
    return count


if __name__ == "__main__":
    found = check_vectors(Path(__file__).parent / "hpke-vectors.json")
    print(f"{found} encryptions agree with the vectors (at least 32)")
    sys.exit(found < 32)
