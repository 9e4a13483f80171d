"""What akira-bench measures, one file a subject."""
