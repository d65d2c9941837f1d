"""
What we have heard so far: the one mutable fold of events.

In: `events`. Out: which Services are dirty, and the values to compile them from. Never: I/O, policy.
Review: does the order of events matter? Is an event that changes nothing free (S7)?
"""
