"""The search for the first point at which a command fails."""
