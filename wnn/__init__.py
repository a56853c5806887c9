"""Neural network inference on CPUs: numpy in, numpy out."""

__version__ = "0.1.0"
