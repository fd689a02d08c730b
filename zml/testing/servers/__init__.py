"""Real servers on loopback, and a proxy that makes faults: for tests of what reads over networks."""

from zml.testing.servers.faults import Faults, faults
from zml.testing.servers.nginx import Nginx, nginx
from zml.testing.servers.scripted import Answer, Request, Scripted, scripted

__all__ = ["Answer", "Faults", "Nginx", "Request", "Scripted", "faults", "nginx", "scripted"]
