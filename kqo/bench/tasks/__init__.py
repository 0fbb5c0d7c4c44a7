"""Classification tasks with true masks, and networks trained on them, for the evaluation."""
