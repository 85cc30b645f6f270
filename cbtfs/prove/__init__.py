"""Proofs that a point works, level by level, and their records."""
