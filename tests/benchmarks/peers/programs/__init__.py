"""The peers' servers, and hosts for those that need one. They run in the peers' own environment.

None imports more of the project than the texts, so that what is weighed is the peer.
"""
