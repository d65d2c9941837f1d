"""
Bounded runs that look for anything lost: connections while agents come and go, and a soak of random changes.

`scripts/soak` runs them at full size and prints a table; packet tests run the same code, smaller.
"""
