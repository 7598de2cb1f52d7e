"""What a person watches: progress, TensorBoard, pictures, profiles."""
