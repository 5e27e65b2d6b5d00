"""The testing kit is tested like everything else: that it finds what it should, and nothing else."""
