"""The service on every Python that is at hand: installed, started, spoken to, and the fast tests.

The whole suite runs on the Python that it was started with. A machine with no other has nothing to try here; the head
of the test report says which were found. found.py looks for them on the PATH and where pyenv keeps its versions.
"""
