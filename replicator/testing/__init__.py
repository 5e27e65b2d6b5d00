"""Tools for tests of services, shipped to users. `deployment` runs real processes."""
