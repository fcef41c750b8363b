"""The command line: one module per verb; the only place that parses arguments and prints."""
