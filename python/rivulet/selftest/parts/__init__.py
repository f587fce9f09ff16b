"""The parts of the selftest: a module each, with ``checks(context)``."""
