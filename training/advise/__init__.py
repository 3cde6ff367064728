"""From a situation to a recipe: rules as data, each with its reason."""
