"""Check: prove that a repository holds what it says, or name what it does not and whom it hurts."""
