"""wcx: contrastive explanations for image classifiers (why this class, and not that one?)."""
