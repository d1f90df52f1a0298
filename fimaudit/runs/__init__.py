"""The whole course of one command: what is set up before inputs are measured, and what is made of their results."""
