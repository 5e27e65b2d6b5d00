"""The protocol, pure: `step(input) -> [effects]`; no clock, no thread, no socket, no file, no log."""
