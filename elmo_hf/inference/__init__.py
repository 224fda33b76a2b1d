"""Inference with trained models: vectors, scores, tags, answers."""
