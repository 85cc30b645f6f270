"""Parsers of libyal, behind the methods of FileSystem. They run in a sandbox."""
