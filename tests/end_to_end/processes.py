"""What processes a command has started, and where they listen; from Linux' /proc."""

import ipaddress
import os
from contextlib import suppress
from pathlib import Path


def started_with(variable: str) -> dict[int, str]:
    """The command lines of the processes that have `NAME=value` in their environment, by id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            if variable.encode() in (folder / "environ").read_bytes().split(b"\0"):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if command:  # a zombie has none
                    found[int(folder.name)] = command
    return found


def listening(processes) -> set[str]:
    """The addresses on which processes with these ids accept TCP connections."""
    sockets = set()
    for process in processes:
        with suppress(OSError):
            for file in Path(f"/proc/{process}/fd").iterdir():
                with suppress(OSError):
                    sockets.add(str(file.readlink()))
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in sockets:
                # groups of four bytes, each with its last byte first
                words = bytes.fromhex(local.partition(":")[0])
                address = b"".join(words[n : n + 4][::-1] for n in range(0, len(words), 4))
                parsed = ipaddress.ip_address(address)
                addresses.add(str(getattr(parsed, "ipv4_mapped", None) or parsed))
    return addresses


def worker_processes(pid):
    """The processes below another one that train."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
            with open(f"/proc/{entry}/cmdline") as file:
                command = file.read()
        except OSError:
            continue
        if parent == pid and "popen_loky" in command:
            found.append(int(entry))
    return found
