"""Which accelerators a build has a runtime for, and which of them this machine has."""
