"""
How desired state becomes kernel rows: one directory a data plane, one line each in `registry`, and `composed` of two of them.

In: `ServiceProgram`s and `NodeFacts`. Out: rows (pure), and the kernel kept equal to them (I/O at the edge).
Never: policy decisions, one data plane importing another.
Review: how does a restarted process know each object as ours? What happens to a packet at every prefix of a plan?
"""
