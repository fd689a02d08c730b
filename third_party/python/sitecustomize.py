"""Runs at the start of every interpreter: forgets PYTHONHOME, which is the launcher's message to this process alone."""

import os

os.environ.pop("PYTHONHOME", None)
