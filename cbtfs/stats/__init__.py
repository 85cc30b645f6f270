"""Statistics of a repository: sizes, sharing and cost of restore points."""
