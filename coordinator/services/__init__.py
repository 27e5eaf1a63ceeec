"""One use case a function, one transaction each: they read rows, ask the core, and write rows."""
