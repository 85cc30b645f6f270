"""Indexes of the files of points, and searches in them."""
