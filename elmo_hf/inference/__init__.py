"""Reading text with a trained model: vectors, scores, tags, answers."""
