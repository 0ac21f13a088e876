"""Keep what runs finish, so that they can be resumed.

``storage`` has the interface of a store and its errors, ``sqlite`` the store in a file.
"""
