"""The lowest room: PJRT clients. The only place that touches jaxlib.xla_client or jax._src."""

# jax says how much jaxlib logs, which only counts if it comes before jaxlib.
import jax as jax
