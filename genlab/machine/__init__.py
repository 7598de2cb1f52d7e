"""Devices, hosts, meshes, memory, signals."""
