#!/usr/bin/env python3
# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""A slow link for the demonstration: passes TCP on at a limited rate.

    slow-link.py PORT-FILE TARGET-PORT RATE-FILE

Listens on a free port of 127.0.0.1 and writes it to PORT-FILE. RATE-FILE holds bytes a second and may be changed at any
time; 0 means no limit. Ends with its standard input.
"""
import os
import socket
import sys
import threading
import time


def pump(source: socket.socket, sink: socket.socket, rate_file: str, limited: bool) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
            rate = int(open(rate_file).read() or 0) if limited else 0
            if rate:
                time.sleep(len(data) / rate)
    except (OSError, ValueError):
        pass
    finally:
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def main() -> None:
    port_file, target, rate_file = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    listener = socket.create_server(("127.0.0.1", 0))
    with open(port_file + ".new", "w") as file:
        file.write(f"{listener.getsockname()[1]}\n")
    os.rename(port_file + ".new", port_file)

    def serve() -> None:
        while True:
            near, _ = listener.accept()
            try:
                far = socket.create_connection(("127.0.0.1", target), timeout=5)
                far.settimeout(None)
            except OSError:
                near.close()
                continue
            threading.Thread(target=pump, args=(near, far, rate_file, True), daemon=True).start()
            threading.Thread(target=pump, args=(far, near, rate_file, False), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
