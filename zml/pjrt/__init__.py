"""The lowest room: PJRT clients. The only place that touches jaxlib.xla_client or jax._src."""
