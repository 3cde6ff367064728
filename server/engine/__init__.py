"""The engine: sequences, blocks, slots and the loop that turns them into tokens."""
