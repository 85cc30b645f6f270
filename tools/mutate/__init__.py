"""Mutation testing: change one place of the code, run the tests that reach it, see if one fails."""
