"""Experiments: what is measured on images, one chunk at a time; they return rows and know nothing of files."""
