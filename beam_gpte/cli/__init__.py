"""Share what the command-line programs need: options, runners, progress, inspection."""
