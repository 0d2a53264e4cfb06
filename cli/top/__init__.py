"""`umekomi top`: the command, what the server tells (overview, feed, pace), keys (keyboard, choosing), the picture (screen)."""
