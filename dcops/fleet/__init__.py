"""Nodes and their GPUs: how they join, what they are, and whether they are trusted."""
