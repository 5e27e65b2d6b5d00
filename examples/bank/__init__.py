"""Accounts and transfers: the example whose invariants are obvious."""
