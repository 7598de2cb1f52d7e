"""The first hour on a rented TPU slice: checked, priced, rented, followed, pulled, given back."""
