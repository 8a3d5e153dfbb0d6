"""A commands module that can not be loaded."""

raise ValueError("broken on purpose")
