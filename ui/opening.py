"""The first lines of every "copy as Python": they open the store as the page shows it."""

from ..queries import Store


def opening(store: Store) -> str:
    """The import and the call, a line each and an empty one between; a store of the past is opened at the same commit."""
    at = f", at={store.snapshot.version}" if store.is_of_the_past else ""
    return f"import actlake\n\nstore = actlake.open({store.uri!r}{at})\n"
