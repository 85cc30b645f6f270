"""Count constructions of translated English, so that the project's words stay plain."""
