"""What a model is worth: likelihood of text, exact answers, an n-gram model to compare with, and the report."""
