"""Prune: reclaims the space of unreferenced objects."""
