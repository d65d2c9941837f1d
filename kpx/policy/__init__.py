"""
What this node ought to forward: Services, slices and NodeFacts become frontends with pools, and reasons.

In: `kpx.model` values. Out: `kpx.policy.desired` values. Never: I/O, clocks, logging, kernel nouns, memory of earlier
states (except `claims`, a fold whose content is a function of the Services present).
Review: is the contract tag of the rule cited? Does the rule give a Reason that a person can read? Does any order of
events give the same result?
"""
