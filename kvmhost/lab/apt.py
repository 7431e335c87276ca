"""Asking Debian's package tools: what the current kernel package is called, and fetching it.
Fetching a package is not installing it, so any user may, once the package lists exist."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from kvmhost.lab.errors import LabError

# The package that depends on the current full kernel. The cloud kernel has no 9p.
KERNEL_METAPACKAGE = "linux-image-amd64"


def as_root(line: str) -> str:
    """A line to type that root must run: with sudo before it, unless we are root.

    >>> as_root("apt-get update").endswith("apt-get update")
    True
    """
    return line if os.geteuid() == 0 else f"sudo {line}"


def install_line(package: str) -> str:
    """The line that installs a package and nothing that it merely recommends.

    >>> install_line("strace").endswith("apt-get install --no-install-recommends strace")
    True
    """
    return as_root(f"apt-get install --no-install-recommends {package}")


def kernel_package() -> str | None:
    """The name of the current kernel package, or None where apt does not know of one."""
    if shutil.which("apt-cache") is None:
        return None
    told = subprocess.run(
        ["apt-cache", "depends", "--no-recommends", KERNEL_METAPACKAGE],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"LC_ALL": "C"},
    )
    for line in told.stdout.splitlines():
        kind, _, package = line.strip().partition(": ")
        if kind == "Depends" and package.startswith("linux-image-"):
            return package
    return None


def fetch_line(folder: Path) -> str:
    """The line that fetches the kernel package into `folder`, from where the lab takes it."""
    if shutil.which("apt-get") is None:
        return f"put a Debian {KERNEL_METAPACKAGE.replace('-amd64', '-*-amd64')} package (.deb) into {folder}"
    package = kernel_package()
    update = "" if package else as_root("apt-get update") + " && "
    # Before the lists exist nobody knows the version; the shell asks when they do.
    name = package or f"$(apt-cache depends {KERNEL_METAPACKAGE} | sed -n 's/.*Depends: //p')"
    return f"{update}mkdir -p {folder} && cd {folder} && apt-get download {name}"


def download(package: str, folder: Path) -> None:
    """Fetches a package file into `folder`. Raises LabError with what apt-get said."""
    done = subprocess.run(
        ["apt-get", "download", package],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise LabError(
            f"apt-get cannot fetch {package}",
            next_step=f"{as_root('apt-get update')} and try again",
            log=done.stderr,
        )
