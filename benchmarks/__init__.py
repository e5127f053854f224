"""Speed, measured as ratios against peers in one run. Never part of the tests."""
