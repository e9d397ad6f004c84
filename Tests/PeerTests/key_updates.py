# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""A TLS client that asks for new keys without an end. Python's `ssl` cannot: this calls the system's libssl."""

from __future__ import annotations

import ctypes
import os
import socket

KEY_UPDATE_REQUESTED = 1
FILETYPE_PEM = 1

_library = ctypes.CDLL("libssl.so.3")
_pointer = ctypes.c_void_p
_library.TLS_client_method.restype = _library.SSL_CTX_new.restype = _library.SSL_new.restype = _pointer


class Updater:
    """A peer with an identity, after the handshake."""

    def __init__(self, port: int, identity: os.PathLike, address: str, alpn: str = "blockferry/1") -> None:
        name = os.fsencode(identity)
        self._context = _pointer(_library.SSL_CTX_new(_pointer(_library.TLS_client_method())))
        names = bytes([len(alpn)]) + alpn.encode()
        assert _library.SSL_CTX_use_certificate_chain_file(self._context, name) == 1
        assert _library.SSL_CTX_use_PrivateKey_file(self._context, name, FILETYPE_PEM) == 1
        assert _library.SSL_CTX_set_alpn_protos(self._context, names, len(names)) == 0
        self._socket = socket.create_connection(("127.0.0.1", port), 10, (address, 0))
        # libssl works on the descriptor, which has to wait for what it writes.
        self._socket.settimeout(None)
        self._ssl = _pointer(_library.SSL_new(self._context))
        assert _library.SSL_set_fd(self._ssl, self._socket.fileno()) == 1
        assert _library.SSL_connect(self._ssl) == 1

    def write(self, data: bytes) -> None:
        assert _library.SSL_write(self._ssl, data, len(data)) == len(data)

    def update(self) -> bool:
        """Sends one KeyUpdate that asks for another; whether the other side still takes it."""
        return _library.SSL_key_update(self._ssl, KEY_UPDATE_REQUESTED) == 1 and _library.SSL_do_handshake(self._ssl) == 1

    def close(self) -> None:
        self._socket.close()
        _library.SSL_free(self._ssl)
        _library.SSL_CTX_free(self._context)
