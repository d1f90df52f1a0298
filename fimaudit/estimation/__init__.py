"""Answers to numbers with limits: functions of arrays. No model, no input or output."""
