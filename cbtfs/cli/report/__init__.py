"""Output of commands: documents, tables, metrics, log lines, exit status."""
