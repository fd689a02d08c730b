"""zml: run models close to the hardware, from one code base, with nothing hidden in global state.

Nothing is decided and no backend is imported here: take what is needed from the sub-packages.
"""
