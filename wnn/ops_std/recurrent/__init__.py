"""Recurrent layers: one stem for each cell, and what they share."""
