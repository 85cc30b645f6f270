"""The engine `parse`: parsers in a child process that can only compute and talk to its parent."""
