"""`umekomi bench`: the command, whom it asks (target), what it sends (texts), how (load), what came of it (result, table)."""
