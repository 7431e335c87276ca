"""The conformance catalogue: does this CPU, and its KVM, switch worlds as the manuals say?

The rows, their expectations, the stage they play on, the model and the reference Switchers are data and plain
Python that import nothing of kvmhost; only the runners, which put all this onto a real engine, know KVM.

Nothing is imported here, so that a runner inside a lab loads only what it uses.
"""
