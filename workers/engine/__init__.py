"""From take to settle: RQ's worker and queue with our scripts."""
