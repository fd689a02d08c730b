"""What runs in the peers' own interpreters: nothing here needs zml or jax, and numpy is what the peers bring."""
