"""Fuzzers for everything that decodes bytes from disk or from a server."""
