"""Learning from preferences and rewards, by TRL's trainers."""
