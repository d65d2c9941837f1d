"""
What this machine is: I/O to values; and the few things about it that kpx sets right.

In: interfaces, /proc, settings, the Node object. Out: `NodeFacts`, `HostAddresses`, and `Check`s that say what a host lacks.
Never: a write but for the sysctls of `ipvs_sysctls`, a module `ipvs_needs` lacks, and, asked for by name, what kube-proxy left.
Review: does it hold inside a network namespace? Is the remedy a command a person can type?
"""
