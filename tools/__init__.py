"""Programs for those who work on zml."""
