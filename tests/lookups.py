"""Run a command where there is no network but a name server that answers nothing and writes down what it is asked.

``python -m tests.lookups ASKED COMMAND...`` inside ``unshare --map-root-user --mount --net``: every look-up of a name
is a line in the file ASKED.
"""

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ISOLATED = ("unshare", "--map-root-user", "--mount", "--net")
_BIND = 4096
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 1


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        name = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(any_socket, _GET_FLAGS, name))[1]
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sH14x", b"lo", flags | _UP))


def _ask_only_here() -> None:
    with tempfile.NamedTemporaryFile("w", delete=False) as resolver:
        resolver.write("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(resolver.name.encode(), b"/etc/resolv.conf", None, _BIND, None):
        raise OSError(ctypes.get_errno(), "cannot put another resolv.conf in place")


def _name(query: bytes) -> str:
    """The name that a DNS query asks for: labels with their lengths, after a head of 12 bytes."""
    labels, place = [], 12
    while query[place]:
        labels.append(query[place + 1 : place + 1 + query[place]].decode("ascii", "replace"))
        place += 1 + query[place]
    return ".".join(labels)


def _listen(server: socket.socket, asked: Path) -> None:
    while True:
        query, who = server.recvfrom(4096)
        with asked.open("a") as stream:
            stream.write(_name(query) + "\n")
        # The same head as an answer: no such name.
        server.sendto(query[:2] + b"\x81\x83" + query[4:], who)


def main(asked: Path, command: list[str]) -> int:
    _loopback_up()
    _ask_only_here()
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    threading.Thread(target=_listen, args=(server, asked), daemon=True).start()
    return subprocess.run(command, env=os.environ, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
