"""Encryption of a repository: keys, key slots, and the encrypted form of packs and files."""
