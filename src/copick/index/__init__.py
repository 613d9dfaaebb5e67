"""The index: what the layers of a project hold, in a SQLite database, so that finding things opens no file.

`things` says what is known of an entity, `schema` what the tables are, `writer` keeps them right, `reader` asks them, and
`stack` is the stack of layers that lists from them.
"""
