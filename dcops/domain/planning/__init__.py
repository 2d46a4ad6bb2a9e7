"""The planner: a frozen view of the fleet and a queue go in, a plan comes out. Also replays traces in virtual time."""
