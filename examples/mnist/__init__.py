"""Train a small net on digits, then classify."""
