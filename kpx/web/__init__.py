"""
A small HTTP server in the agent's own loop.

In: sockets that selectors found ready. Out: answers of the handlers it was given. Never: what is on a page; that is the agent's.
Review: what can a stranger on the network make it hold, and for how long?
"""
