"""
What this machine is: I/O to values.

In: interfaces, /proc, settings, the Node object. Out: `NodeFacts`, `HostAddresses`, and `Check`s that say what a host lacks.
Never: writes. Nothing here changes the machine.
Review: does it hold inside a network namespace? Is the remedy a command a person can type?
"""
