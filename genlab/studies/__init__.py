"""Questions asked of finished or many comparisons."""
