"""The bench room: what a world switch costs, and how sure one can be of it.

A benchmark is data: a name, a paragraph that says what is timed and what is subtracted, and a unit.  A
subject is the machine that can do it so many times.  The worker measures and writes what it saw, as it was;
statistics, comparisons and reports are made of that afterwards, by a process that measures nothing.
"""
