"""
What the cluster and the node say: frozen values.

In: nothing. Out: values every other room speaks about. Never: I/O, clocks, behaviour beyond construction.
Review: does a new field change what kpx programs or explains? If not, it does not belong here, since a change in a
field kpx does not hold is no change at all.
"""
