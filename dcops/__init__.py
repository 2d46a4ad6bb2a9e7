"""The dcops control plane. Only a docstring here: agents import `dcops.wire`, and must not load Django or Celery."""
