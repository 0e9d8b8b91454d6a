"""The app: what a store holds, seen in a browser.

`serve` is the one door. Importing this package imports Panel, so nothing else in actlake imports it before it must.
"""

from .app import Server, serve

__all__ = ["Server", "serve"]
