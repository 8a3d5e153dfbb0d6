"""The worker beside what else one could stream from Python with: ``python -m tests.benchmarks.peers``.

Every peer is a server process of its own, set up as its documentation says, and does the worker's work:
one request streams chunks of a text, another gives one short answer. Peers are measured in turn with the
worker; a row's ``floor`` is the peer, its ratio is the worker's figure over the peer's.
"""
