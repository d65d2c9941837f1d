"""
How to speak to Linux: wire codecs (pure), batches (pure), and the one door through which datagrams leave.

In: kernel nouns (table, chain, rule, set, element, flow, virtual server, destination). Out: bytes, acknowledgements, rows of
bytes.
Out: bytes, acknowledgements, rows of bytes.
Never: Kubernetes nouns, policy. This room has never heard of a Service.
Review: is the kernel's source or header named for each layout? Does pyroute2 decode what we encode?
"""
