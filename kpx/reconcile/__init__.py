"""
Desired rows against actual rows: the same code for every data plane.

In: rows. Out: plans. Never: Kubernetes nouns, netlink, I/O, clocks (they arrive as arguments).
Review: is every prefix of the plan legal? Does equal desired and actual give an empty plan?
"""
