"""
The IPVS part of the ipvs data plane; frontends that need more than a virtual server are left to nftables (`composed`).

In: `ServiceProgram`s and `NodeFacts`. Out: virtual servers and destinations, ipsets, a constant handful of iptables rules.
Never: a VIP as an address of this host, somebody else's virtual server, set, chain or mark bit, a rule per Service.
Review: is every prefix of what is written legal? What does a run that was cut short here leave behind?
"""
