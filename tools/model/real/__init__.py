"""The histories of the model, played by the code of the store.

Each program of a history is a thread that uses the real store. Its requests to backends go to the
scheduler, the network and the checker of the model. One thread runs at a time, so a seed determines
a history.
"""
