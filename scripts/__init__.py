"""Thin runners: each reads the configuration and calls wcx with plain arguments."""
