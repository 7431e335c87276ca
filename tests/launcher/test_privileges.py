"""Who kvmhost is before and after, and that there is no way back.

Whoever gives privileges up cannot get them back to run the next test, so each case is a child process that
tells what it saw as JSON.  As root the child is what sudo would have started; without root the same child
must change nothing, whatever its environment claims.
"""

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvmhost.launcher.privileges import Ids, PrivilegeError, id_number, settle, wanted_account

ROOT = os.geteuid() == 0
#: An ordinary user that every Debian has; group lp is there to be got rid of.
SOMEBODY = pwd.getpwnam("daemon")
STRANGER_GROUP = 7

CHILD = """
import dataclasses, json, os, resource, subprocess, sys
from kvmhost.launcher.privileges import Ids, PrivilegeError, settle

KEPT = ("HOME", "USER", "LOGNAME", "XDG", "SUDO")
user, start_as, secret, helper, sabotage = json.loads(sys.argv[1])
exec(sabotage)
if start_as is not None:
    os.setgroups([])
    os.setresgid(start_as, start_as, start_as)
    os.setresuid(start_as, start_as, start_as)
held = open(secret) if os.access(secret, os.R_OK) else None
try:
    standing = settle(user)
except PrivilegeError as error:
    print(json.dumps({"error": error.message, "cause": error.cause, "usage": error.usage}))
    sys.exit()

def attempt(call):
    try:
        call()
    except PermissionError:
        return "refused"
    return "done"

status = {key: rest.strip() for key, _, rest in (line.partition(":") for line in open("/proc/self/status"))}
tale = {
    "before": dataclasses.asdict(standing.before),
    "after": dataclasses.asdict(standing.after),
    "now": dataclasses.asdict(Ids.now()),
    "remark": standing.remark,
    "fsuid": status["Uid"].split()[3],
    "capabilities": [status[k] for k in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "no_new_privs": status["NoNewPrivs"],
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "setuid": attempt(lambda: os.setuid(0)),
    "setresuid": attempt(lambda: os.setresuid(0, 0, 0)),
    "setreuid": attempt(lambda: os.setreuid(-1, 0)),
    "setgid": attempt(lambda: os.setgid(0)),
    "setgroups": attempt(lambda: os.setgroups([0])),
    "open": attempt(lambda: open(secret).close()),
    "held": held.read() if held else None,
    "helper": subprocess.run([helper, "-u"], capture_output=True, text=True).stdout.strip(),
    "environment": {k: v for k, v in os.environ.items() if k.startswith(KEPT)},
}
print(json.dumps(tale))
"""


@pytest.fixture
def ground() -> Iterator[Path]:
    """A folder everybody can enter, on a file system that honours set-user-ID bits."""
    for base in (tempfile.gettempdir(), "/var/tmp", str(Path(__file__).parent)):
        if not os.statvfs(base).f_flag & os.ST_NOSUID:
            break
    else:
        raise AssertionError("no folder in which a set-user-ID program would work")
    folder = Path(tempfile.mkdtemp(dir=base))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def secret(ground: Path) -> Path:
    """A file that only its owner can open."""
    path = ground / "secret"
    path.write_text("treasure")
    path.chmod(0o600)
    return path


@pytest.fixture
def helper(ground: Path) -> Path:
    """`id`, set-user-ID to whoever runs the tests."""
    path = ground / "id"
    shutil.copy(shutil.which("id") or "/usr/bin/id", path)
    path.chmod(0o4755)
    return path


@pytest.fixture
def tell(secret: Path, helper: Path) -> Any:
    """Run the child with these environment variables and this --user; give back what it says."""

    def run(
        user: str | None = None, *, start_as: int | None = None, sabotage: str = "", **environment: str
    ) -> dict[str, Any]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SUDO_", "XDG_"))}
        words = json.dumps([user, start_as, str(secret), str(helper), sabotage])
        identity: dict[str, Any] = {"extra_groups": [0, STRANGER_GROUP]} if ROOT else {}
        child = subprocess.run(
            [sys.executable, "-P", "-c", CHILD, words],
            env={**kept, **environment},
            capture_output=True,
            text=True,
            check=False,
            **identity,
        )
        assert child.returncode == 0, child.stderr
        tale: dict[str, Any] = json.loads(child.stdout)
        return tale

    return run


def groups_of(user: pwd.struct_passwd) -> list[int]:
    """What `id -G` says, which asks the system's database without us."""
    listed = subprocess.run(["id", "-G", user.pw_name], capture_output=True, text=True, check=True)
    return sorted({int(group) for group in listed.stdout.split()})


def check_became(tale: dict[str, Any], uid: int, gid: int, groups: list[int]) -> None:
    """Everything that must hold after privileges are gone."""
    assert tale["before"] == {"uids": [0] * 3, "gids": [0] * 3, "groups": [0, STRANGER_GROUP]}
    assert tale["after"] == tale["now"] == {"uids": [uid] * 3, "gids": [gid] * 3, "groups": groups}
    assert tale["fsuid"] == str(uid)
    assert [int(mask, 16) for mask in tale["capabilities"]] == [0, 0, 0, 0, 0]
    assert tale["no_new_privs"] == "1"
    assert tale["core"] == [0, 0]
    for door in ("setuid", "setresuid", "setreuid", "setgid", "setgroups", "open"):
        assert tale[door] == "refused", door
    assert tale["held"] == "treasure"
    assert tale["helper"] == str(uid)
    assert tale["remark"] is None


def check_unchanged(tale: dict[str, Any]) -> None:
    """Everything that must hold when there was nothing to give up, or nobody to become."""
    assert tale["before"] == tale["after"]


@pytest.mark.parametrize("gid", [SOMEBODY.pw_gid, None])
def test_under_sudo(tell: Any, gid: int | None) -> None:
    group = {} if gid is None else {"SUDO_GID": str(gid)}
    tale = tell(SUDO_UID=str(SOMEBODY.pw_uid), **group)
    if ROOT:
        check_became(tale, SOMEBODY.pw_uid, SOMEBODY.pw_gid, groups_of(SOMEBODY))
    else:
        check_unchanged(tale)


def test_under_sudo_as_a_number_without_a_name(tell: Any) -> None:
    tale = tell(SUDO_UID="3141592", SUDO_GID="2718281")
    if ROOT:
        check_became(tale, 3141592, 2718281, [2718281])
    else:
        check_unchanged(tale)


@pytest.mark.parametrize("name", [SOMEBODY.pw_name, str(SOMEBODY.pw_uid)])
def test_user_by_name_and_by_number(tell: Any, name: str) -> None:
    tale = tell(name)
    if ROOT:
        check_became(tale, SOMEBODY.pw_uid, SOMEBODY.pw_gid, groups_of(SOMEBODY))
    else:
        assert tale["error"] == f"cannot become {name}"
        assert tale["usage"] is True


def test_user_wins_over_sudo(tell: Any) -> None:
    nobody = pwd.getpwnam("nobody")
    tale = tell("nobody", SUDO_UID=str(SOMEBODY.pw_uid), SUDO_GID=str(SOMEBODY.pw_gid))
    if ROOT:
        check_became(tale, nobody.pw_uid, nobody.pw_gid, groups_of(nobody))
    else:
        assert tale["usage"] is True


@pytest.mark.parametrize("environment", [{}, {"SUDO_UID": "0", "SUDO_GID": "0"}])
def test_nobody_to_become(tell: Any, environment: dict[str, str]) -> None:
    tale = tell(**environment)
    assert tale["before"] == tale["after"] == tale["now"]
    assert tale["no_new_privs"] == "0"
    if ROOT:
        assert tale["remark"] == "running as root: --user NAME gives that up"
        assert tale["helper"] == "0"
    else:
        assert tale["remark"] is None


def test_without_root_sudo_variables_mean_nothing(tell: Any) -> None:
    start_as = SOMEBODY.pw_uid if ROOT else None
    for uid in ("0", str(pwd.getpwnam("nobody").pw_uid), "rubbish"):
        tale = tell(start_as=start_as, SUDO_UID=uid, SUDO_GID="0")
        assert tale["before"] == tale["after"] == tale["now"]
        assert tale["after"]["uids"] == [SOMEBODY.pw_uid if ROOT else os.getuid()] * 3


def test_the_set_user_id_helper_works_for_those_who_may(tell: Any) -> None:
    """The control of the experiment: without no_new_privs the helper would have given root away."""
    tale = tell(start_as=SOMEBODY.pw_uid if ROOT else None)
    assert tale["no_new_privs"] == "0"
    assert tale["helper"] == str(os.geteuid())


@pytest.mark.parametrize(
    ("sabotage", "left"),
    [
        ("really = os.setresuid; os.setresuid = lambda r, e, s: really(r, e, 0)", "the ids are"),
        ("really = os.setresgid; os.setresgid = lambda r, e, s: really(r, e, 0)", "the ids are"),
        ("os.setgroups = lambda groups: None", "the ids are"),
        (
            "from kvmhost.launcher.privileges import Kernel; really = Kernel.prctl; "
            "Kernel.prctl = lambda self, option, *value: 0 if option == 38 else really(self, option, *value)",
            "set-user-ID programs still work",
        ),
        ("os.setresuid = lambda r, e, s: None", "the ids are"),
    ],
)
def test_a_way_back_that_stays_open_is_noticed(tell: Any, sabotage: str, left: str) -> None:
    tale = tell(sabotage=sabotage, SUDO_UID=str(SOMEBODY.pw_uid))
    if ROOT:
        assert tale["error"] == f"became {SOMEBODY.pw_name}, but not for good"
        assert left in tale["cause"]
    else:
        check_unchanged(tale)


def test_the_environment_becomes_the_users(tell: Any, ground: Path) -> None:
    roots_cache = ground / "cache"
    roots_cache.mkdir()
    tale = tell(
        SUDO_UID=str(SOMEBODY.pw_uid),
        SUDO_GID=str(SOMEBODY.pw_gid),
        SUDO_USER=SOMEBODY.pw_name,
        HOME="/root",
        USER="root",
        LOGNAME="root",
        XDG_CACHE_HOME=str(roots_cache),
    )
    if ROOT:
        name = SOMEBODY.pw_name
        assert tale["environment"] == {"HOME": SOMEBODY.pw_dir, "USER": name, "LOGNAME": name}
    else:
        assert tale["environment"]["XDG_CACHE_HOME"] == str(roots_cache)


def test_a_cache_of_the_users_own_stays(tell: Any, ground: Path) -> None:
    cache = ground / "cache"
    cache.mkdir()
    if ROOT:
        os.chown(cache, SOMEBODY.pw_uid, SOMEBODY.pw_gid)
    tale = tell(SUDO_UID=str(SOMEBODY.pw_uid), XDG_CACHE_HOME=str(cache))
    assert tale["environment"]["XDG_CACHE_HOME"] == str(cache)


@pytest.mark.parametrize(
    "text", ["", "-1", "+5", " 5", "5 ", "0x5", "５", "1_000", "4294967295", "4294967296", "9" * 40, "root"]
)
def test_a_mangled_sudo_uid_is_an_error(text: str) -> None:
    assert id_number(text) is None
    for environ in ({"SUDO_UID": text, "SUDO_GID": "1"}, {"SUDO_UID": "1", "SUDO_GID": text}):
        with pytest.raises(PrivilegeError, match="which is no id") as caught:
            wanted_account(environ, 0, None)
        assert caught.value.usage
        assert "--user NAME" in caught.value.next_step


def test_a_mangled_sudo_uid_changes_nothing(tell: Any) -> None:
    tale = tell(SUDO_UID="-1", SUDO_GID="-1")
    if ROOT:
        assert (tale["error"], tale["usage"]) == ("SUDO_UID is '-1', which is no id", True)
    else:
        check_unchanged(tale)


def test_a_number_without_any_group_is_an_error() -> None:
    with pytest.raises(PrivilegeError, match="user id 3141592 has no group"):
        wanted_account({"SUDO_UID": "3141592"}, 0, None)


def test_an_unknown_user_is_an_error() -> None:
    with pytest.raises(PrivilegeError, match="there is no user nobody-of-that-name") as caught:
        wanted_account({}, 0, "nobody-of-that-name")
    assert caught.value.usage


def test_one_may_ask_to_be_who_one_is() -> None:
    assert wanted_account({}, SOMEBODY.pw_uid, SOMEBODY.pw_name) is None
    assert wanted_account({}, 0, "root") is None
    assert settle(environ={}).after == Ids.now()
