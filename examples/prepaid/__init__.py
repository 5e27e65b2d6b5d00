"""The prepaid calling card, the main example (after US 6,347,322 B1, Figs. 3 and 4)."""
