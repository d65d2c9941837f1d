"""
The Kubernetes API as a source: list and watch four kinds, and say a word back now and then.

In: HTTPS answers. Out: `kpx.cluster.events`, `Finding`s, and what others ask `client.Client` to send. `machine` and what it is
made of know no socket and no clock; `source` moves bytes between them and the server, in one epoll, without a thread. The
`kubernetes` package is asked for credentials only, in a child process, since importing it costs more than the rest of the source.
Never: policy, kernel; the API server's word counts until it says something else, however long it is silent (16.5).
Review: does anything here wait? Is every buffer bounded? What happens to the held objects when this step fails?
"""
