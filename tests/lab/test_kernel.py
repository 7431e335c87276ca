"""A kernel comes from a package, from what is installed, or from the cache, whole or not at all."""

from __future__ import annotations

import contextlib
import json
import lzma
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lab.things import (
    ELF,
    KERNEL_FILES,
    LOAD_ORDER,
    PACKAGE,
    PACKAGE_FILE,
    bz_image,
    debian_package,
    module,
    program,
)

from kvmhost.lab import LabError, prepare, run, sources
from kvmhost.lab.kernel import Kernel, cache_folder, cached_kernels, vmlinux_of
from kvmhost.lab.provide import find_kernel


def put_package(cache: Path, files: dict[str, bytes] = KERNEL_FILES) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    return debian_package(cache / PACKAGE_FILE, files)


def check(kernel: Kernel | None) -> None:
    """It is the kernel of KERNEL_FILES, unpacked."""
    assert kernel is not None
    assert kernel.vmlinux.read_bytes() == ELF + b"the kernel"
    assert [path.stem for path in kernel.modules] == LOAD_ORDER
    assert kernel.network
    assert all(path.read_bytes().startswith(b"\x7fELF") for path in kernel.modules)


@pytest.mark.parametrize("sectors", [0, 1, 4, 30])
def test_vmlinux_of_a_bzimage(sectors: int) -> None:
    image = bytearray(bz_image(sectors=sectors or 4))
    image[0x1F1] = sectors  # 0 means 4, as the boot protocol has it
    assert vmlinux_of(bytes(image)) == ELF + b"the kernel"


@pytest.mark.parametrize(
    ("image", "told"),
    [(b"", "not a bzImage"), (bytes(4096), "not a bzImage"), (bz_image(b"a script"), "no ELF file")],
)
def test_what_is_no_bzimage(image: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        vmlinux_of(image)


def test_a_package_in_the_cache_folder_is_unpacked_once(cache: Path) -> None:
    package = put_package(cache)
    kernel = find_kernel()
    check(kernel)
    assert kernel is not None
    assert kernel.origin == f"{PACKAGE} 6.1.7-1"
    assert kernel.vmlinux.parent == cache / "6.1.7-1"
    assert not package.exists()
    assert find_kernel() == kernel
    assert sorted(path.name for path in cache.iterdir()) == [".lock", "6.1.7-1"]


def test_a_merged_usr_package(cache: Path) -> None:
    put_package(
        cache,
        {f"usr/{name}" if name.startswith("lib") else name: KERNEL_FILES[name] for name in KERNEL_FILES},
    )
    check(find_kernel())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"lib/modules/6.1.0/kernel/fs/9p/9p.ko": None}, "has no module 9p"),
        ({"lib/modules/6.1.0/kernel/net/9p/9pnet.ko.xz": None}, "has no module 9pnet"),
        ({"boot/vmlinuz-6.1.0": None}, "not a bzImage"),
        ({"lib/modules/6.1.0/kernel/arch/x86/kvm/kvm.ko": b"junk"}, "not a 64-bit ELF"),
    ],
)
def test_a_kernel_that_does_not_suit(cache: Path, change: dict[str, bytes | None], told: str) -> None:
    files = {**KERNEL_FILES, **change}
    put_package(cache, {name: content for name, content in files.items() if content is not None})
    with pytest.raises(LabError, match=told) as caught:
        find_kernel()
    assert PACKAGE in caught.value.cause
    assert list(cached_kernels()) == []
    assert not [path for path in cache.iterdir() if path.name.startswith(".unpacking")]


def test_an_unfinished_folder_is_not_used(cache: Path, tmp_path: Path) -> None:
    (cache / "6.1.6-1").mkdir(parents=True)
    (cache / "6.1.6-1" / "vmlinux").write_bytes(b"half of it")
    assert list(cached_kernels()) == []
    (cache / "6.1.6-1" / "kernel.json").write_text('{"origin": ')
    assert list(cached_kernels()) == []


def test_a_kernel_unpacked_by_an_older_kvmhost_is_unpacked_again(cache: Path) -> None:
    (cache / "6.1.7-1").mkdir(parents=True)
    (cache / "6.1.7-1" / "kernel.json").write_text('{"origin": "older", "modules": []}')
    assert list(cached_kernels()) == []
    put_package(cache)
    check(find_kernel())


def test_a_kernel_without_a_network_runs_labs_without_one(
    cache: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_package(cache, {name: data for name, data in KERNEL_FILES.items() if not name.endswith("/tun.ko")})
    kernel = find_kernel()
    assert kernel is not None
    assert not kernel.network
    assert [path.stem for path in kernel.modules] == LOAD_ORDER[: LOAD_ORDER.index("failover")]
    program(programs, "qemu-system-x86_64", "exit 1")
    program(programs, "true", "")
    monkeypatch.delenv("KVMHOST_IN_LAB", raising=False)
    with pytest.raises(LabError, match=r"no network: .* lacks virtio_net or tun") as caught:
        run(["true"], network=True)
    assert str(kernel.vmlinux.parent) in caught.value.next_step


def test_the_latest_of_several_is_used(cache: Path) -> None:
    for age, name in enumerate(["new", "old", "older"]):
        (cache / name).mkdir(parents=True)
        manifest = cache / name / "kernel.json"
        manifest.write_text(json.dumps({"origin": name, "modules": [], "network": False}))
        os.utime(manifest, (1000 - age, 1000 - age))
    assert [kernel.origin for kernel in cached_kernels()] == ["new", "old", "older"]


def test_the_cache_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for value, base in (("/x", Path("/x")), ("relative", tmp_path / ".cache"), ("", tmp_path / ".cache")):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == base / "kvmhost" / "lab"


def test_an_unusable_cache_folder(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in the way")
    with pytest.raises(LabError, match="cache folder") as caught:
        find_kernel()
    assert "XDG_CACHE_HOME" in caught.value.next_step


def test_an_installed_kernel(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in KERNEL_FILES.items():
        path = tmp_path / "system" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    # A cloud kernel beside it, which sorts first and does not suit.
    cloud = tmp_path / "system" / "boot" / "vmlinuz-6.1.0-cloud"
    cloud.write_bytes(bz_image())
    modules = tmp_path / "system" / "lib" / "modules" / "6.1.0-cloud"
    modules.mkdir()
    (modules / "modules.builtin").write_bytes(b"")
    (modules / "virtio_pci.ko.xz").write_bytes(lzma.compress(module("virtio")))
    monkeypatch.setattr(sources, "BOOT", tmp_path / "system" / "boot")
    monkeypatch.setattr(sources, "MODULES", tmp_path / "system" / "lib" / "modules")
    kernel = find_kernel()
    check(kernel)
    assert kernel is not None
    assert kernel.origin == str(tmp_path / "system" / "boot" / "vmlinuz-6.1.0")


DEPENDS = f"echo linux-image-amd64; echo '  Depends: {PACKAGE}'"


def has_open(process: subprocess.Popen[str], path: Path) -> bool:
    """Whether a process has a file open."""
    folder = Path(f"/proc/{process.pid}/fd")
    with contextlib.suppress(FileNotFoundError):  # A descriptor that has been closed meanwhile.
        return any(fd.readlink() == path for fd in folder.iterdir())
    return False


def test_labs_that_start_at_once_fetch_one_kernel(cache: Path, programs: Path, tmp_path: Path) -> None:
    package = debian_package(tmp_path / PACKAGE_FILE, KERNEL_FILES)
    program(programs, "apt-cache", DEPENDS)
    # Whoever fetches waits at the gate, which opens when all have come as far as the lock.
    os.mkfifo(tmp_path / "gate")
    script = f'echo "$*" >>{tmp_path}/asked; read line <{tmp_path}/gate; exec /bin/cp {package} .'
    program(programs, "apt-get", script)
    line = [sys.executable, "-P", "-c", "from kvmhost.lab import prepare; print(prepare().vmlinux)"]
    started = [subprocess.Popen(line, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    while not all(has_open(process, cache / ".lock") for process in started):
        assert [process.poll() for process in started] == [None] * 3
    (tmp_path / "gate").write_text("go on\n")
    told = [process.communicate(timeout=60)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert told == [f"{cache}/6.1.7-1/vmlinux\n"] * 3
    assert (tmp_path / "asked").read_text() == f"download {PACKAGE}\n"


def test_a_package_that_cannot_be_fetched(cache: Path, programs: Path) -> None:
    program(programs, "apt-cache", DEPENDS)
    program(programs, "apt-get", "echo 'E: no network' >&2; exit 100")
    with pytest.raises(LabError, match="cannot fetch") as caught:
        prepare()
    assert "no network" in caught.value.log
    assert "apt-get update" in caught.value.next_step
    assert [path.name for path in cache.iterdir()] == [".lock"]
