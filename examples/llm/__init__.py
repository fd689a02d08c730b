"""The command-line example: text from a checkpoint."""
