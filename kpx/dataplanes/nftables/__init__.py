"""
The nftables data plane.

In: `ServiceProgram`s and `NodeFacts`. Out: rows of sets, maps and chains; the tables `ip kpx` and `ip6 kpx` equal to them.
Never: a rule or chain per Service on the lookup path, anybody else's table, a packet mark.
Review: does every rule list cleanly with nft 1.0.6, text and JSON? Is the order of ranks still right?
"""
