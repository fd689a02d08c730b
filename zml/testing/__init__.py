"""Small random checkpoints, tokenizers and programs for tests: nothing is downloaded, nothing is committed."""
