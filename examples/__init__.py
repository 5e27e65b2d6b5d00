"""Examples: whole services, each with its own data, driver and audit."""
