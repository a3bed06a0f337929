"""Variants of a bundle compared on C4: how far each is from the most precise one, and what that costs in loss."""
