"""Faster implementations of the operators that `elmo_hf/model/operators.py` defines."""
