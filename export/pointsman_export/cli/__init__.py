"""The command `pointsman-export`."""
