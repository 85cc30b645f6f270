"""The programs of the model, as generators of requests."""
