"""
Where events come from: a directory of manifests, later the Kubernetes API.

In: files or bytes. Out: `kpx.cluster.events`, and `Finding`s about input that is wrong. Never: policy, kernel.
Review: what happens to the last good state when the source breaks? Is each complaint one line that says where and what?
"""
