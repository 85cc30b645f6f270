"""Counter of constructions of translated English in the prose of the project."""
