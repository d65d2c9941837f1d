"""
The loop: hear, compile, write, tell.

In: settings, a source, a data plane, the host. Out: a kernel that equals the cluster, one log line a round, health and
metrics. Never: policy decisions, kernel encodings, anything proportional to the cluster on the way of one change.
Review: what happens to forwarding when this process dies here? Which deadline wakes the loop again?
"""
