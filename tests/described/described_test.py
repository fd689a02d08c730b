"""Compiles for accelerators that are not here: every chip that has a description, and whole models.

Each target whose plugin is found (in the runfiles, or in ZML_SANDBOX_PATH) is tested.
"""

import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

import zml
from zml.errors import CompileError, UnsupportedError
from zml.io import View
from zml.llm.programs import Deployment, Programs
from zml.models import architecture
from zml.pjrt import sandbox
from zml.pjrt.host import Host
from zml.platform import Platform, described

FOUND = [target for target in ("cuda", "tpu") if target in sandbox.find(Host())]
CHIPS = [name for target in FOUND for name in described.chips()[target]]
