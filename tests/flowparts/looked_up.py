"""Run a command where nothing but this machine can be reached, and print what it tried to reach as JSON.

`unshare --net --mount python looked_up.py COMMAND...`: the names it looked up, and how many packets had no
way to go. The command's own output goes to stderr; its exit status is this one's.
"""

import fcntl
import json
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

_SIOCSIFFLAGS, _IFF_UP_RUNNING = 0x8914, 0x41


def main(command: list[str]) -> int:
    names: list[str] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, tempfile.TemporaryDirectory() as folder:
        fcntl.ioctl(server, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP_RUNNING))
        configuration = Path(folder) / "resolv.conf"
        configuration.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        subprocess.run(["mount", "--bind", configuration, "/etc/resolv.conf"], check=True)
        server.bind(("127.0.0.1", 53))
        before = no_routes()
        threading.Thread(target=answer, args=(server, names), daemon=True).start()
        ended = subprocess.run(command, stdout=sys.stderr)
        print(json.dumps({"names": names, "unroutable": no_routes() - before}))
    return ended.returncode


def answer(server: socket.socket, names: list[str]) -> None:
    """Note each name that is asked for, and say that there is none."""
    while True:
        query, client = server.recvfrom(4096)
        labels, place = [], 12
        while query[place]:
            labels.append(query[place + 1 : place + 1 + query[place]].decode())
            place += 1 + query[place]
        names.append(".".join(labels))
        server.sendto(query[:2] + b"\x81\x83" + query[4:6] + b"\0" * 6 + query[12 : place + 5], client)


def no_routes() -> int:
    """Return how many packets had no way to go."""
    counts = [line.split() for line in Path("/proc/net/snmp").read_text().splitlines()]
    heads, values = [words for words in counts if words[0] == "Ip:"]
    return int(values[heads.index("OutNoRoutes")])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
