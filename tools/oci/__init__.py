"""Layers of images, and the bill of what is in them."""
