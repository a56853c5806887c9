"""Quantised tensors and what computes on them."""
