"""Platform: owns the devices; everything that runs is reached from one."""

from zml.platform.platform import Platform

__all__ = ["Platform"]
