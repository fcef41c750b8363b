"""Low-rank adapters as a tree of their own beside the weights: made by rules, folded by one sum."""
