"""Text to token ids and back, and text with blanks to sentinels and back."""
