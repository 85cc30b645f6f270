"""Draw the figures of the documentation."""
