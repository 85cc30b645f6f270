"""One module per command: its options, its call, its report."""
