"""The cases for clients, and ``python -m tests.conformance.clients`` to run them. See ../README.md."""
