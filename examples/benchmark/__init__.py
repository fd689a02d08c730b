"""How fast a matrix product runs, and how fast this machine could."""
