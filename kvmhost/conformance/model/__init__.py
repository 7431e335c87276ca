"""A second opinion on what the manuals say: an 80x86 in protected mode, as plain Python.

It has no speed and not many instructions; it has the rules: what a descriptor must be to be loaded, how a
linear address becomes a physical one, what is pushed when, and what a fault inside of a fault becomes.  Each
is written from the text and has worked examples of its own as tests.  It is no oracle: where it and a row
disagree, one of the two has read the manual wrongly.
"""
