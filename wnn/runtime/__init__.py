"""The compiled core; see executor.h and _core.pyx."""
