"""Native code, by platform."""
