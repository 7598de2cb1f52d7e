"""A trained arm as a folder that travels: written, checked, loaded, pushed to and pulled from a
hub.
"""
