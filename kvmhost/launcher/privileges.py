"""Stop being root, for good.

Opening /dev/kvm may need root; nothing after it does, for every later call is made on file
descriptors that stay open.  So a kvmhost that sudo started opens what it was asked to open and then becomes
the person who typed the command, before the first byte of an image is read: what parses a stranger's
kernel is an ordinary process of an ordinary user.

Becoming somebody is easy, never being able to turn back takes more: all three user ids, all three group
ids, the supplementary groups, five sets of capabilities, `no_new_privs` so that no set-user-ID program
gives any of it back, and no core dumps, since the process holds what root opened.  At the end the way
back is tried, and if it is open we refuse to go on.

The calls and their rules are those of capabilities(7), credentials(7), prctl(2) and sudo(8), "ENVIRONMENT".
"""

from __future__ import annotations

import os
import pwd
import resource
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvmhost.host.errors import KvmhostError

# prctl(2) and capabilities(7), by the manual's names.
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_GET_NO_NEW_PRIVS = 39
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
LINUX_CAPABILITY_VERSION_3 = 0x20080522
CAP_SETPCAP = 8

#: -1 as an id means "leave it as it is" to the kernel, so it cannot be anybody's.
LARGEST_ID = 2**32 - 2


class PrivilegeError(KvmhostError):
    """Somebody we cannot become, or a way back that stayed open.

    usage: True if the request itself was wrong (a user that does not exist, a mangled SUDO_UID).

    >>> settle("nobody-of-that-name")
    Traceback (most recent call last):
    ...
    kvmhost.launcher.privileges.PrivilegeError: there is no user nobody-of-that-name: ...
    """

    def __init__(self, message: str, *, cause: str, next_step: str, usage: bool = False) -> None:
        super().__init__(message, cause=cause, next_step=next_step)
        self.usage = usage


@dataclass(frozen=True, slots=True)
class Ids:
    """Who this process is: real, effective and saved ids, and the supplementary groups, sorted.

    >>> Ids.now().uids == os.getresuid()
    True
    """

    uids: tuple[int, int, int]
    gids: tuple[int, int, int]
    groups: tuple[int, ...]

    @classmethod
    def now(cls) -> Ids:
        """Ask the kernel."""
        return cls(os.getresuid(), os.getresgid(), tuple(sorted(set(os.getgroups()))))


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody to become: ids as numbers, groups as the system's group database gives them, sorted."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str

    @property
    def ids(self) -> Ids:
        """What `Ids.now()` says once this process is that account and nothing else."""
        return Ids((self.uid,) * 3, (self.gid,) * 3, self.groups)


@dataclass(frozen=True, slots=True)
class Standing:
    """What came of `settle`: the ids before and after, and a line for the person if there is one to say."""

    before: Ids
    after: Ids
    account: Account | None
    remark: str | None


def settle(user: str | None = None, environ: MutableMapping[str, str] | None = None) -> Standing:
    """Become whom this process should be from now on; call it once everything that needs root is open.

    Under sudo that is the user who called sudo, with that user's groups; `user` (a name or a number) names
    somebody else.  Root without sudo stays root and gets a remark; without root nothing changes, and
    whatever SUDO_UID says is nobody's business.  Raises PrivilegeError if it cannot be done completely.

    >>> settle(environ={}).after == Ids.now()
    True
    """
    environ = os.environ if environ is None else environ
    before = Ids.now()
    account = wanted_account(environ, os.geteuid(), user)
    if account is None:
        return Standing(
            before, before, None, None if os.geteuid() else "running as root: --user NAME gives that up"
        )
    become(account)
    adopt_environment(account, environ)
    return Standing(before, Ids.now(), account, None)


def wanted_account(environ: Mapping[str, str], euid: int, user: str | None) -> Account | None:
    """Whom a process with this effective user id and environment should become, None for no change.

    >>> wanted_account({"SUDO_UID": "0"}, 1000, None) is None
    True
    """
    if user is not None:
        account = named_account(user)
        if euid == 0:
            return None if account.uid == 0 else account
        if account.uid == euid:
            return None
        raise PrivilegeError(
            f"cannot become {user}",
            cause="only root can become somebody else",
            next_step="leave --user out, or start kvmhost with sudo",
            usage=True,
        )
    if euid != 0 or "SUDO_UID" not in environ:
        return None
    uid = sudo_id("SUDO_UID", environ["SUDO_UID"])
    if uid == 0:
        return None
    gid = sudo_id("SUDO_GID", environ["SUDO_GID"]) if "SUDO_GID" in environ else None
    return account_of(uid, gid)


def sudo_id(variable: str, text: str) -> int:
    """The number in SUDO_UID or SUDO_GID; PrivilegeError if sudo cannot have written it.

    >>> sudo_id("SUDO_UID", "1000")
    1000
    """
    number = id_number(text)
    if number is None:
        raise PrivilegeError(
            f"{variable} is {text!r}, which is no id",
            cause=f"sudo sets {variable} to a number, that of the one who called it",
            next_step=f"unset {variable}, or say --user NAME",
            usage=True,
        )
    return number


def id_number(text: str) -> int | None:
    """A user or group id in plain decimal digits, None if it is anything else.

    >>> id_number("65534"), id_number("+1"), id_number("4294967295")
    (65534, None, None)
    """
    if not (text.isascii() and text.isdigit()) or len(text) > 10:
        return None
    number = int(text)
    return number if number <= LARGEST_ID else None


def named_account(user: str) -> Account:
    """The account with this name or, if it is a number, this user id; PrivilegeError if there is none.

    >>> named_account("root").uid
    0
    """
    try:
        return account_of(pwd.getpwnam(user).pw_uid, None, user)
    except (KeyError, ValueError):
        number = id_number(user)
        if number is not None:
            return account_of(number, None)
        raise PrivilegeError(
            f"there is no user {user}",
            cause="the system's user database does not know this name",
            next_step="say --user with a name from `getent passwd`, or a number",
            usage=True,
        ) from None


def account_of(uid: int, gid: int | None, name: str | None = None) -> Account:
    """The account behind a user id.

    `gid` None takes the group the user database gives.  A number nobody has a name for (usual in
    containers) is good enough when its group is known: it then has that group and no other.
    """
    try:
        entry = pwd.getpwnam(name) if name is not None else pwd.getpwuid(uid)
    except KeyError:
        if gid is None:
            raise PrivilegeError(
                f"user id {uid} has no group",
                cause="the user database does not know this number, and SUDO_GID does not name a group",
                next_step="say --user NAME with a user this system knows",
                usage=True,
            ) from None
        return Account(str(uid), uid, gid, (gid,), "/")
    gid = entry.pw_gid if gid is None else gid
    groups = tuple(sorted(set(os.getgrouplist(entry.pw_name, gid))))
    return Account(entry.pw_name, uid, gid, groups, entry.pw_dir)


def become(account: Account) -> None:
    """Turn this process, which must be root and have one thread, into that account, with no way back.

    Raises PrivilegeError when the kernel refuses a step or when, afterwards, anything of root is left; the
    process should then end, for it is neither one nor the other.
    """
    kernel = Kernel()
    if len(list(Path("/proc/self/task").iterdir())) != 1:
        raise PrivilegeError(
            f"cannot become {account.name}",
            cause="capabilities belong to threads, and this process has already started a second one",
            next_step="give privileges up before starting threads",
        )
    try:
        # Order: the bounding set and the groups can only be given up by somebody who still has capabilities.
        kernel.drop_bounding_set()
        kernel.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
        kernel.prctl(PR_SET_NO_NEW_PRIVS, 1)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.setgroups(account.groups)
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
        # setresuid has emptied three of the sets already, unless securebits asked it not to.
        kernel.set_no_capabilities()
    except OSError as error:
        raise PrivilegeError(
            f"cannot become {account.name}",
            cause=f"{error.strerror}: a container without that user, or without CAP_SETUID?",
            next_step="run kvmhost without sudo as a user in group kvm",
        ) from error
    check_no_way_back(account, kernel)


def check_no_way_back(account: Account, kernel: Kernel) -> None:
    """Try to become root again by every door; PrivilegeError names the first that opens."""
    left = None
    if Ids.now() != account.ids:
        left = f"the ids are {Ids.now()}"
    elif kernel.capabilities() != (0, 0, 0):
        left = "capabilities are left"
    elif kernel.prctl(PR_GET_NO_NEW_PRIVS) != 1:
        left = "set-user-ID programs still work"
    elif account.uid != 0 and succeeds(lambda: os.setresuid(-1, 0, -1)):
        left = "the user id could be set back to 0"
    elif account.gid != 0 and succeeds(lambda: os.setresgid(-1, 0, -1)):
        left = "the group id could be set back to 0"
    elif succeeds(lambda: os.setgroups([0])):
        left = "the groups could be set again"
    if left is not None:
        raise PrivilegeError(
            f"became {account.name}, but not for good",
            cause=left,
            next_step="run kvmhost without sudo as a user in group kvm, and report this",
        )


def succeeds(call: Callable[[], object]) -> bool:
    """Whether a call that the kernel ought to refuse goes through."""
    try:
        call()
    except PermissionError:
        return False
    return True


def adopt_environment(account: Account, environ: MutableMapping[str, str]) -> None:
    """Make the environment that account's: sudo leaves root's, and the lab's cache would go to root's home.

    A cache or runtime folder of the account's own survives; sudo's variables have done their work.
    """
    environ["HOME"] = account.home
    environ["USER"] = environ["LOGNAME"] = account.name
    for variable in (
        "XDG_CACHE_HOME",
        "XDG_CONFIG_HOME",
        "XDG_DATA_HOME",
        "XDG_STATE_HOME",
        "XDG_RUNTIME_DIR",
    ):
        if variable in environ and not belongs_to(account.uid, Path(environ[variable])):
            del environ[variable]
    for variable in ("SUDO_UID", "SUDO_GID", "SUDO_USER", "SUDO_COMMAND"):
        environ.pop(variable, None)


def belongs_to(uid: int, folder: Path) -> bool:
    """Whether that folder exists, can be seen, and is this user's."""
    try:
        return folder.stat().st_uid == uid
    except OSError:
        return False


class Kernel:
    """The three calls that Python's os module does not have."""

    def __init__(self) -> None:
        import ctypes

        class Header(ctypes.Structure):
            _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))

        class Sets(ctypes.Structure):
            _fields_ = (
                ("effective", ctypes.c_uint32),
                ("permitted", ctypes.c_uint32),
                ("inheritable", ctypes.c_uint32),
            )

        self._ctypes = ctypes
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.prctl.argtypes = (ctypes.c_int,) + (ctypes.c_ulong,) * 4
        self._header: Any = Header(LINUX_CAPABILITY_VERSION_3, 0)
        self._sets: Any = (Sets * 2)()

    def prctl(self, option: int, value: int = 0) -> int:
        """prctl(2) with one argument; OSError if the kernel refuses."""
        result: int = self._libc.prctl(option, value, 0, 0, 0)
        if result < 0:
            self._fail()
        return result

    def capabilities(self) -> tuple[int, int, int]:
        """Effective, permitted and inheritable, as 64-bit masks."""
        if self._libc.capget(self._ctypes.byref(self._header), self._sets) != 0:
            self._fail()
        low, high = self._sets
        return (
            low.effective | high.effective << 32,
            low.permitted | high.permitted << 32,
            low.inheritable | high.inheritable << 32,
        )

    def set_no_capabilities(self) -> None:
        """Empty all three sets of this thread."""
        self._ctypes.memset(self._sets, 0, self._ctypes.sizeof(self._sets))
        if self._libc.capset(self._ctypes.byref(self._header), self._sets) != 0:
            self._fail()

    def drop_bounding_set(self) -> None:
        """Empty the bounding set.

        Root without CAP_SETPCAP, as in some containers, may not; there no_new_privs alone keeps exec from
        giving out what the set would allow.
        """
        if not self.capabilities()[0] >> CAP_SETPCAP & 1:
            return
        for capability in range(64):
            if self._libc.prctl(PR_CAPBSET_READ, capability, 0, 0, 0) < 0:
                return  # the kernel knows no more of them
            self.prctl(PR_CAPBSET_DROP, capability)

    def _fail(self) -> None:
        number = self._ctypes.get_errno()
        raise OSError(number, os.strerror(number))
