"""What every river stage stands on: errors, console, store, executor. Knows nothing of chats."""
