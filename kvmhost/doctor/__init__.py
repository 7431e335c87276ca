"""Can this machine run Guests, natively or in the lab, and if not, what has to change?

The doctor asks by running Guests. Capabilities say what a KVM's authors meant it to do; a software
KVM says yes to everything and then shuts the vCPU down. So there is a small Guest for each question
(native/doctor/probes.S), and what becomes of it is the answer.

It must also work when kvmhost itself does not: it uses ctypes and the standard library, imports
nothing else of kvmhost, and its numbers and machine code were written into `_constants` when
kvmhost was built.

Read on: `examination` (the two ways to ask), `probes` (the questions), `world` (where a probe Guest
lives), `device` (/dev/kvm), `child` (clocks for what never ends), `judgement` (answers to verdicts),
`advice` and `facts` (words for errors, and what this machine is), `report`.
"""

from kvmhost.doctor.examination import LabAnswer, examine, native_verdict
from kvmhost.doctor.probes import Answer, ProbeResult
from kvmhost.doctor.report import Report, Verdict, render_text, report_to_dict

__all__ = [
    "Answer",
    "LabAnswer",
    "ProbeResult",
    "Report",
    "Verdict",
    "examine",
    "native_verdict",
    "render_text",
    "report_to_dict",
]
