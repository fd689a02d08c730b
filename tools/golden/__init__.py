"""Makes the golden outputs in tests/golden."""
