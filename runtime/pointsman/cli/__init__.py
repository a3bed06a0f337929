"""The command `pointsman`, and the parser that all three commands share."""
