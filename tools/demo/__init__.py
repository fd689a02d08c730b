"""Makes the checkpoint that examples/llm embeds."""
