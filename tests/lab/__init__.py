"""The lab: hosts, links, traffic and the agent under test, all in network namespaces. See docs/lab.md."""
