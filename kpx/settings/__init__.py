"""
The settings: what can be chosen, where it was said, and what was meant.

In: the command line, the environment, a configuration file of kpx or of kube-proxy. Out: one frozen `Config`, and a clear line
for every word that was not understood. Never: the host, the kernel, anything that acts on a setting.
Review: do all four ways to say it end with the same value? Is a wrong value refused before anything is touched?
"""
