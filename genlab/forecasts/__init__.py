"""What follows the first half of a clip: drawn by arms, made for baselines, and scored."""
