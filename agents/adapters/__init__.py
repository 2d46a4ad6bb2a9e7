"""Everything that touches a device, a disk or a network on the node."""
