"""Where weights come from, and what of them stays in memory: mapped, in huge pages, unsigned, laid out anew."""
