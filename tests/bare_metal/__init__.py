"""
Proof that kpx runs on a server: systemd, the role of ansible, and a reboot, in a virtual machine with Debian 12.

In goes this checkout; out comes a table of what was proven and how long it took (docs/bare-metal.md). Each step asks the machine
as an administrator would, by ssh; nothing of kpx is imported. `scripts/test --bare-metal` runs it.
"""
