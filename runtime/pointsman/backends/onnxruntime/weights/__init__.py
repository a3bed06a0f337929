"""How weights are loaded, and what of them stays in memory: mapped, in huge pages, unsigned where products saturate."""
