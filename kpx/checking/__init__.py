"""
Health checks of endpoints, for hosts where nobody else says which backend is alive.

In: the programs of Services that ask for checks, and the time. Out: who failed, to be left out by the policy. Never: the
decision to keep a pool that looks dead (`kpx.policy.checked`), a row, a kernel table.
Review: can a backend that says nothing, or too much, or slowly, hold the loop up? What does a flapping one cost?
"""
