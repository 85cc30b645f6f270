"""Crash campaigns: kill runs and fail their calls, and verify that committed data is intact."""
