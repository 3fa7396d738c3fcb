"""Repair by training: distillation and fine-tuning."""
