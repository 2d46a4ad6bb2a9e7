"""Soaks: long runs, often with faults, judged by an oracle that does not trust the product."""
