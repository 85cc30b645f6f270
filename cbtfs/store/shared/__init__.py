"""Writers that share a repository, by objects that are created once (docs/decisions/0046)."""
