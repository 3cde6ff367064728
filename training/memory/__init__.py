"""How much memory a step of training takes: foretold from the model's structure, and measured."""
