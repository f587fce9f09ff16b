"""``rivulet selftest``: whether this machine's mps device is right, in minutes, from an installed package alone.

Each part of the test (``parts``) is a list of checks, run one after another in a process of its own, so that a driver
that aborts or never comes back is a failure with a name and the rest goes on. The parent imports no PyTorch.

=============  ===================================================================
``command``    the command line, and what it returns
``runner``     child processes, their time, and what became of each check
``child``      the process that runs one part
``registry``   what a check and a part are, and which parts there are
``cases``      ops beside the CPU, as tables that the project's own tests use too
``report``     the page for people; ``record`` is the JSON
=============  ===================================================================

Everything is described in ``docs/selftest.md`` of the project.
"""
