"""The evaluation of approximate plans on tasks with true masks, behind ``kqo evaluate``."""
