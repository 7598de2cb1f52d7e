"""What each arm may spend, solved before anything is trained."""
