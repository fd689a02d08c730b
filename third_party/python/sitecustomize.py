"""Runs at every start: forgets PYTHONHOME, the launcher's message to this process alone."""

import os

os.environ.pop("PYTHONHOME", None)
