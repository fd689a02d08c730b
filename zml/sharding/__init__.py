"""Sharding: what joins the devices, what models cut their values over, and which device gets which part."""

from zml.errors import ShardingError
from zml.sharding import manual
from zml.sharding.discovery import find as find_physical_mesh
from zml.sharding.heads import kv_head_repeats, repeat_heads
from zml.sharding.logical import BALANCED, HIGH_BANDWIDTH, LOW_BANDWIDTH, Intent, LogicalMesh
from zml.sharding.manual import manual_computation
from zml.sharding.partitioner import Partitioner, partitioned_by
from zml.sharding.physical import Device, Geometry, PhysicalAxis, PhysicalMesh
from zml.sharding.placement import Placement, Shard
from zml.sharding.sharding import Sharding, check_together, select
from zml.sharding.strategy import Strategy

__all__ = [
    "BALANCED",
    "HIGH_BANDWIDTH",
    "LOW_BANDWIDTH",
    "Device",
    "Geometry",
    "Intent",
    "LogicalMesh",
    "Partitioner",
    "PhysicalAxis",
    "PhysicalMesh",
    "Placement",
    "Shard",
    "Sharding",
    "ShardingError",
    "Strategy",
    "check_together",
    "find_physical_mesh",
    "kv_head_repeats",
    "manual",
    "manual_computation",
    "partitioned_by",
    "repeat_heads",
    "select",
]
