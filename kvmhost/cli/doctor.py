"""`kvmhost doctor`: can this machine run Guests, and if not, what to change.

The room it calls uses nothing but ctypes, so this works when the compiled part is missing or broken.
"""

from __future__ import annotations

import argparse

from kvmhost.cli.backend import inside_lab


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The words of this command."""
    parser = commands.add_parser(
        "doctor",
        help="can this machine run Guests, and if not, what to change",
        description="Run probe Guests and say what works, natively or in the lab; 3 if nothing does.",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a report")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    """Examine and print; from inside a lab nothing is said about the lab."""
    from kvmhost.doctor import examine, render_text, report_to_dict

    report = examine(lab_check=None if inside_lab() else lab_answer)
    if arguments.json:
        import json

        print(json.dumps(report_to_dict(report), indent=2))
    else:
        print(render_text(report))
    return report.exit_code


def lab_answer() -> tuple[bool, str, str]:
    """What the lab room knows, as the doctor wants to hear it: whether, why, what to do."""
    from kvmhost.lab import check

    status = check()
    if status.ready:
        return True, f"{status.qemu} and {status.kernel} are here", ""
    return False, "; ".join(status.missing), status.next_step
