"""Input nobody meant, made by hypothesis: a few hundred examples in the tests, as many as there is time for by `scripts/fuzz`."""
