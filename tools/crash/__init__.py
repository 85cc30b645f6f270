"""Runs that are killed or meet a failing disk, and the proof that nothing committed is touched."""
