"""Platform: owns the devices; everything that runs is reached from one."""

from zml.platform.candidates import Candidate, candidates
from zml.platform.device import Device
from zml.platform.options import CpuOptions, DistributedOptions, GpuOptions, PlatformOptions
from zml.platform.platform import Platform
from zml.platform.target import Target

__all__ = [
    "Candidate",
    "CpuOptions",
    "Device",
    "DistributedOptions",
    "GpuOptions",
    "Platform",
    "PlatformOptions",
    "Target",
    "candidates",
]
