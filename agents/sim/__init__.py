"""A simulated hall: nodes and GPUs with believable physics that speak the real wire protocol.

It runs beside the server and is shipped with it, so unlike the agent it may use numpy. Everything it sends is marked simulated.
"""

from agents.sim.generate import Generated, generate

__all__ = ["Generated", "generate"]
