"""`kvmhost lab`: a machine with a real KVM, inside QEMU, for any command.

Under sudo it becomes the user who called sudo first: QEMU needs nothing of root's.
"""

from __future__ import annotations

import argparse

from kvmhost.cli.failures import DONE, HOST_CANNOT, UsageError, say


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The words of this command."""
    parser = commands.add_parser(
        "lab",
        help="run a command on a machine with a real KVM, inside QEMU",
        description="QEMU's emulated AMD SVM under an ordinary kernel, with this machine's files beneath.",
    )
    actions = parser.add_subparsers(title="what to do", metavar="ACTION", required=True)
    run = actions.add_parser("run", help="run a command in the lab; its exit code is ours")
    run.add_argument(
        "--memory", default="1G", metavar="SIZE", help="memory of the lab, 512M or 2G (default 1G)"
    )
    run.add_argument("--cpus", type=int, default=1, metavar="N", help="CPUs of the lab (default 1)")
    run.add_argument("--timeout", type=float, metavar="SECONDS", help="switch the lab off after that time")
    run.add_argument(
        "--writable",
        action="append",
        metavar="DIR",
        help="a folder where changes are kept (default: this one); may be repeated",
    )
    run.add_argument(
        "--net", action="store_true", help="a network: what this machine reaches, and itself at 10.0.2.2"
    )
    run.add_argument(
        "--icount",
        action="store_true",
        help="every clock counts instructions (a nanosecond each): exact, and slower",
    )
    run.add_argument("--user", metavar="NAME", help="who to become when started as root")
    run.add_argument(
        "line", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="the command, its arguments"
    )
    run.set_defaults(command=run_command)
    check = actions.add_parser("check", help="is everything here that a lab needs")
    check.set_defaults(command=check_command)
    prepare = actions.add_parser("prepare", help="fetch the lab's kernel if there is none; installs nothing")
    prepare.add_argument("--user", metavar="NAME", help="whose kernel it is, when started as root")
    prepare.set_defaults(command=prepare_command)


def run_command(arguments: argparse.Namespace) -> int:
    """Become who we should be, then start the lab."""
    line = arguments.line[1:] if arguments.line[:1] == ["--"] else arguments.line
    if not line:
        raise UsageError("which command?", next_step="kvmhost lab run -- COMMAND ...")
    from kvmhost import lab

    stop_being_root(arguments.user)
    return lab.run(
        line,
        writable=arguments.writable,
        timeout=arguments.timeout,
        memory=arguments.memory,
        cpus=arguments.cpus,
        network=arguments.net,
        icount=arguments.icount,
    )


def check_command(arguments: argparse.Namespace) -> int:
    """Say what is here and what is missing."""
    from kvmhost import lab

    status = lab.check()
    print(f"QEMU    {status.qemu or 'missing'}")
    print(f"kernel  {status.kernel or 'missing'}")
    if status.ready:
        return DONE
    print(f"what to do: {status.next_step}")
    return HOST_CANNOT


def prepare_command(arguments: argparse.Namespace) -> int:
    """Come by a kernel, as the user whose cache it goes to."""
    from kvmhost import lab

    stop_being_root(arguments.user)
    print(f"kernel  {lab.prepare().origin}")
    return DONE


def stop_being_root(user: str | None) -> None:
    """As before running a Guest, since whatever COMMAND reads is as strange to us as an image."""
    from kvmhost.launcher.privileges import settle

    remark = settle(user).remark
    if remark:
        say(remark)
