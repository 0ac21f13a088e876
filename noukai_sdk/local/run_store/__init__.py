"""Keep what runs finish, so that they can be resumed.

``base`` has the interface of a store and its errors, ``sqlite`` the store in a file.
"""
