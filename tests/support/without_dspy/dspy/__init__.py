"""Stands before DSPy on the path where a test is about processes only: importing it takes most of a start."""

raise ImportError("this test does without DSPy")
