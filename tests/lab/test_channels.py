"""Channels between a command in a lab and the one who started it."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import threading
from pathlib import Path
from socket import socketpair

from lab.labs import PATIENCE, lab_line

from kvmhost.lab import channel, job
from kvmhost.launcher.devices.claim import Disk
from kvmhost.launcher.devices.disk import FileDisk
from kvmhost.launcher.devices.remote_disk import Server

SIZE = 24 << 20

# Echoes what comes on channel 0 until it has had it all, then asks for a disk on channel 1.
INSIDE = """
import hashlib, os, sys
from kvmhost.lab import LabError, channel_count, open_channel
from kvmhost.launcher.devices.remote_disk import RemoteDisk
assert channel_count() == 2
echo = open_channel(0)
assert os.fstat(echo).st_uid == os.getuid()
left = 300_000
while left:
    data = os.read(echo, 65536)
    left -= len(data)
    while data:
        data = data[os.write(echo, data):]
for number in 0, 2:
    try:
        open_channel(number)
    except LabError as error:
        print(error.cause)
disk = RemoteDisk("disk", open_channel(1))
sums = hashlib.sha256()
for at in range(0, disk.size, 1 << 20):
    areas = [memoryview(bytearray(size)) for size in (512, 65536, (1 << 20) - 66048)]
    disk.read(areas, at)
    for area in areas:
        sums.update(area)
    disk.write([memoryview(bytes(areas[0][::-1])), *areas[1:]], at)
disk.flush()
print(sums.hexdigest(), disk.size)
disk.close()
"""


def test_numbers_are_those_of_pid_1() -> None:
    header = (Path(__file__).parents[2] / "native" / "lab" / "lab.h").read_text()
    assert f"#define MAX_CHANNELS {job.MAX_CHANNELS} " in header
    ports = header.split("enum port {")[1].split("}")[0].replace(" = 1", "").split(",")
    assert ports.index(" PORT_CHANNELS ") + 1 == channel.FIRST_CHANNEL


def test_a_stream_and_a_disk(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    content = random.Random(8).randbytes(SIZE)
    image.write_bytes(content)
    ours, theirs = socketpair()
    said = random.Random(9).randbytes(300_000)
    heard = bytearray()

    def listen() -> None:
        while len(heard) < len(said) and (data := ours.recv(65536)):
            heard.extend(data)

    with FileDisk.open(Disk(image)) as disk, Server([disk]) as server, ours:
        fds = [theirs.fileno(), server.sockets[0].fileno()]
        line = lab_line(sys.executable, "-P", "-c", INSIDE, channels=fds, writable=[])
        lab = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, pass_fds=fds)
        theirs.close()
        listener = threading.Thread(target=listen)
        listener.start()
        ours.sendall(said)
        out, _ = lab.communicate(timeout=PATIENCE)
        listener.join(PATIENCE)
    assert heard == said
    lines = out.decode().splitlines()
    assert lines == [
        "channel 0 cannot be opened: Device or resource busy",
        "there is no channel 2",
        f"{hashlib.sha256(content).hexdigest()} {SIZE}",
    ]
    assert lab.returncode == 0
    changed = bytearray(content)
    for at in range(0, SIZE, 1 << 20):
        changed[at : at + 512] = changed[at : at + 512][::-1]
    assert image.read_bytes() == changed
    assert image.stat().st_size == SIZE
