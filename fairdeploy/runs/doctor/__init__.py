"""What is installed, what works here, and what to install for what does not.

Nothing heavy is imported here: each library is tried in a process of its own, so that one that is
missing, broken, crashes or hangs is a line of the answer.
"""
