"""The Launcher: what a Guest is made of before its first instruction.

An image is found by name or path and opened while there may still be privileges (images.py), read and judged
(elf.py, bzimage.py), laid into the Guest's memory beside its boot parameters (boot.py), and run (machine.py).
Each is imported when it is needed: a command line that only wants to print its help pays for none of them.
"""
