"""What the repository's points hold, share and cost."""
