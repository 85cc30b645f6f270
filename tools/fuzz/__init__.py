"""Fuzzers for all decoders of bytes from disk or from a server."""
