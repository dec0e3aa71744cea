"""What the areas share about guests, parameters, entries of the API and lists; it sends nothing."""
