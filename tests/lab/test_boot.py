"""Real labs. A boot takes seconds, so each looks at many things."""

from __future__ import annotations

import http.server
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from lab.labs import PATIENCE, children, is_running, lab_line, started, wait_until_gone

import kvmhost
from kvmhost.lab.kernel import cached_kernels

EVERYTHING = """
cat
{
    echo "cwd $PWD"
    echo "variable $VARIABLE"
    echo "in lab $KVMHOST_IN_LAB"
    echo "umask $(umask)"
    [ -w /dev/kvm ] && echo "kvm"
    [ -t 0 ] || [ -t 1 ] || [ -t 2 ] || echo "no terminal"
    [ "$(cat /sys/class/net/lo/operstate)" != down ] && echo "loopback"
    echo "lost" >"$ELSEWHERE/lost" && cat "$ELSEWHERE/lost"
    echo "gone" >/gone && cat /gone
    echo /dev/fd/* | grep -q /dev/fd/1 && echo "descriptors"
    tr x y <changed >changed.new && mv changed.new changed
    rm removed
    mkdir -p new/folder && echo deep >new/folder/file
} >&2
exit 42
"""


def test_one_command(tmp_path: Path) -> None:
    """stdin to stdout byte by byte, stderr apart, exit code, environment, files."""
    here, elsewhere = tmp_path / "here, with a comma", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    (here / "changed").write_text("xxx\n")
    (here / "removed").write_text("")
    content = os.urandom(3_000_000)
    environment = {"PATH": os.environ["PATH"], "VARIABLE": "ä b\nc", "ELSEWHERE": str(elsewhere)}
    line = lab_line("sh", "-c", EVERYTHING, cwd=str(here), env=environment)
    lab = subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, umask=0o027
    )
    out, err = lab.communicate(content, timeout=PATIENCE)
    assert err.decode().splitlines() == [
        f"cwd {here}",
        "variable ä b",
        "c",
        "in lab 1",
        "umask 0027",
        "kvm",
        "no terminal",
        "loopback",
        "lost",
        "gone",
        "descriptors",
    ]
    assert out == content
    assert lab.returncode == 42
    # Written back: the folder it ran in, and nothing else.
    assert (here / "changed").read_text() == "yyy\n"
    assert not (here / "removed").exists()
    assert (here / "new" / "folder" / "file").read_text() == "deep\n"
    assert (here / "new" / "folder" / "file").stat().st_mode & 0o777 == 0o640
    assert list(elsewhere.iterdir()) == []
    assert not Path("/gone").exists()


def somebody() -> tuple[int, list[str]]:
    """A user without rights, and how to become him: root becomes nobody, others stay who they are."""
    if os.getuid() != 0:
        return os.getuid(), []
    return 65534, ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]


def first_that_runs(become: list[str], *pythons: str) -> str:
    """Root's own Python may lie where nobody else can reach it."""
    for python in pythons:
        if subprocess.run([*become, python, "-c", ""], capture_output=True, check=False).returncode == 0:
            return python
    pytest.fail("no Python that everybody may run")


def test_another_user_and_two_cpus(tmp_path: Path) -> None:
    """With nothing but the standard library, and a kernel that lies where he can read it."""
    user, become = somebody()
    cache, folder, site = tmp_path / "cache", tmp_path / "folder", tmp_path / "site"
    shutil.copytree(next(cached_kernels()).vmlinux.parent, cache / "kvmhost" / "lab" / "kernel")
    package = Path(kvmhost.__file__).parent
    for part in ("lab", "data/lab"):
        shutil.copytree(package / part, site / "kvmhost" / part)
    folder.mkdir()
    if become:
        for path in (tmp_path, *tmp_path.parents[:2]):
            path.chmod(0o755)
        os.chown(folder, user, user)
    script = "id -u; nproc; : </dev/kvm && echo kvm; touch file; cat /etc/shadow || kill -USR1 $$"
    environment = {"PATH": os.defpath, "HOME": "/nonexistent", "PYTHONPATH": str(site)}
    environment["XDG_CACHE_HOME"] = str(cache)
    line = lab_line("sh", "-c", script, writable=[str(folder)], cwd=str(folder), cpus=2, memory="512M")
    lab = subprocess.run(
        [*become, first_that_runs(become, sys.executable, "/usr/bin/python3"), *line[1:]],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert "shadow: Permission denied" in lab.stderr
    assert lab.stdout == f"{user}\n2\nkvm\n"
    assert lab.returncode == 128 + signal.SIGUSR1
    assert (folder / "file").stat().st_uid == user


def test_ctrl_c_lets_the_command_end() -> None:
    """SIGINT goes inside; what the command does about it decides the exit code."""
    script = "trap 'echo interrupted; exit 7' INT; echo ready; while :; do sleep 1; done"
    with started(lab_line("sh", "-c", script)) as lab:
        assert lab.stdout is not None
        assert lab.stdout.readline() == b"ready\n"
        (qemu,) = children(lab.pid)
        lab.send_signal(signal.SIGINT)
        out, _ = lab.communicate(timeout=PATIENCE)
        assert out == b"interrupted\n"
        assert lab.returncode == 7
        assert not is_running(qemu)


def test_a_command_that_will_not_end() -> None:
    """The second signal switches the lab off, whatever the command thinks of it."""
    script = "trap 'echo no' INT TERM; echo ready; while :; do sleep 1; done"
    with started(lab_line("sh", "-c", script)) as lab:
        assert lab.stdout is not None
        assert lab.stdout.readline() == b"ready\n"
        (qemu,) = children(lab.pid)
        lab.send_signal(signal.SIGINT)
        assert lab.stdout.readline() == b"no\n"
        assert is_running(qemu)
        lab.send_signal(signal.SIGTERM)
        lab.communicate(timeout=PATIENCE)
        assert lab.returncode == 128 + signal.SIGTERM
        assert not is_running(qemu)


def test_nothing_is_left_when_we_are_killed() -> None:
    """No process of a lab outlives the one that started it."""
    with started(lab_line("sh", "-c", "echo ready; sleep 1000")) as lab:
        assert lab.stdout is not None
        assert lab.stdout.readline() == b"ready\n"
        (qemu,) = children(lab.pid)
        lab.kill()
        lab.communicate(timeout=PATIENCE)
        wait_until_gone(qemu)
        assert not is_running(qemu)


def test_a_reader_that_has_seen_enough() -> None:
    """As in `yes | head`: the command is told by SIGPIPE, and the lab ends."""
    with started(lab_line("sh", "-c", "yes; echo $? >&2")) as lab:
        assert lab.stdout is not None
        assert lab.stderr is not None
        assert lab.stdout.readline() == b"y\n"
        lab.stdout.close()
        err = lab.stderr.read()
        lab.wait(PATIENCE)
        assert err == b"%d\n" % (128 + signal.SIGPIPE)
        assert lab.returncode == 0


def test_no_streams_at_all(tmp_path: Path) -> None:
    """As a service may be started; the lab's own sockets must not be taken for streams."""
    inside = f"cat >{tmp_path}/in; echo out; echo err >&2; echo done >{tmp_path}/done; exit 9"
    line = lab_line("sh", "-c", inside, writable=[str(tmp_path)], timeout=PATIENCE)
    closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *line]
    assert subprocess.run(closed, timeout=2 * PATIENCE, check=False).returncode == 9
    assert (tmp_path / "in").read_text() == ""
    assert (tmp_path / "done").read_text() == "done\n"


def test_a_signal_before_the_start() -> None:
    with started(lab_line("true")) as lab:
        while not children(lab.pid):
            assert lab.poll() is None
        (qemu,) = children(lab.pid)
        lab.send_signal(signal.SIGTERM)
        lab.communicate(timeout=PATIENCE)
        assert lab.returncode in (128 + signal.SIGTERM, -signal.SIGTERM)
        wait_until_gone(qemu)


def test_a_timeout() -> None:
    with started(lab_line("sleep", "1000", timeout=1)) as lab:
        _, err = lab.communicate(timeout=PATIENCE)
        assert lab.returncode == 3
        assert b"LabTimeout" in err
        assert b"did not end within 1 seconds" in err


def test_a_lab_that_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's last words are the first thing to show."""
    kernel = next(cached_kernels())
    folder = tmp_path / "kvmhost" / "lab" / "broken"
    shutil.copytree(kernel.vmlinux.parent, folder)
    (folder / "modules" / "virtio_console.ko").write_bytes(b"not a module")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with started(lab_line("true")) as lab:
        _, err = lab.communicate(timeout=PATIENCE)
        assert lab.returncode == 3
        told = err.decode().splitlines()
        assert told[0] == "LabError the lab's last words:"
        assert "  kvmhost lab: /modules/virtio_console.ko: -8" in told
        assert "the lab died" in told


NETWORK = """
import json, os, socket, sys, urllib.request
from pathlib import Path

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as ping:
    ping.settimeout(30)
    ping.sendto(bytes.fromhex("0800f7ff00000000"), ("10.0.2.2", 0))
    print("ping", ping.recv(100)[0])
with urllib.request.urlopen(sys.argv[1], timeout=60) as answer:
    print(answer.read().decode())
print(Path("/etc/resolv.conf").read_text().strip())
print("tun", os.access("/dev/net/tun", os.R_OK | os.W_OK))
"""


class Greeter(http.server.BaseHTTPRequestHandler):
    """Answers every question with one line."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"greetings from outside")

    def log_message(self, *_: object) -> None:
        pass


def test_a_network() -> None:
    """The gateway answers, this machine's loopback is behind it, and nothing of ours is used up."""
    with http.server.HTTPServer(("127.0.0.1", 0), Greeter) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        url = f"http://10.0.2.2:{server.server_port}/"
        line = lab_line(sys.executable, "-c", NETWORK, url, network=True)
        lab = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)
    assert lab.stdout.splitlines() == [
        "ping 0",
        "greetings from outside",
        "nameserver 10.0.2.3",
        "tun True",
    ], lab.stderr
    assert lab.returncode == 0


def test_no_network_unless_asked_for() -> None:
    """Without it the lab has its loopback, and no way out."""
    line = lab_line("sh", "-c", "ls /sys/class/net; cat /proc/net/route | wc -l")
    lab = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)
    assert lab.stdout == "lo\n1\n"


# rdtsc; mov %eax, %ecx; 1,000 times nop; rdtsc; sub %ecx, %eax; ret
COUNT = """
import ctypes, mmap
page = mmap.mmap(-1, 4096, prot=7)
page.write(bytes.fromhex("0f31 89c1" + 1000 * "90" + "0f31 29c8 c3"))
count = ctypes.CFUNCTYPE(ctypes.c_uint32)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
print(sorted(count() for _ in range(9))[4], "kvmhost.icount=1" in open("/proc/cmdline").read())
"""


def test_instructions_are_counted_exactly() -> None:
    """The time-stamp counter goes up by one for each, and a program can ask whether it does."""
    line = lab_line(sys.executable, "-c", COUNT, icount=True)
    lab = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)
    assert lab.stdout == "1002 True\n", lab.stderr
