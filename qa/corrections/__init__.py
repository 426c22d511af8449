"""What other people's libraries do wrong in the pinned releases, one file for each library or part of it.

Belongs here: what is wrong in which release, the way around it, and how one would notice that it can go. Nothing of
the project is imported, so that any room may import from here.
Does not belong here: choices of our own.
"""
