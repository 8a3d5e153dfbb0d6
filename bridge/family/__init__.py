"""A family of workers behind one pipe: ``dspy-bridge serve --workers N``.

Three kinds of process. The *supervisor* owns the host's pipe; it routes request lines and relays chunk
lines, and runs no code of a user's. The *template* imports the commands and DSPy once and forks. The
*workers* are its children: each is what a single worker is, on a socket to the supervisor instead of the
host's pipe.
"""
