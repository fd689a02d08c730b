"""What runs in the peers' own interpreters: nothing here needs zml, jax or numpy unless the peer brings it."""
