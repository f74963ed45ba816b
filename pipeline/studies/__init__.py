"""Trainings compared over seeds and scenes: does distillation help, and what of it."""
