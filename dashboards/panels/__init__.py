"""What each live panel says: pure functions from a FleetView to plain data, computed once a second for all viewers."""
