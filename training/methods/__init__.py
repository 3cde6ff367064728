"""What is trained and how: a table of methods as data, and the pieces that its rows are made of."""
