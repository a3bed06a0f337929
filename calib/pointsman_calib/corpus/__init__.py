"""Text to calibrate and compare on: C4, span corruption, batches."""
