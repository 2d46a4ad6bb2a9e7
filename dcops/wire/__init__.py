"""What agents and the server say to each other: versioned, pure, shared by both sides."""
