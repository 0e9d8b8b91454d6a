"""What the app's pages and downloads have in common where people sign in: where they are sent to, and how cookies are kept."""

from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from tornado.web import RequestHandler


class Guarded(RequestHandler):
    """Sends a stranger to the sign-in, to come back to the same address, and keeps cookies from scripts and other sites.

    All addresses are relative to the page's, so that a proxy may put the app in a folder.
    """

    def get_login_url(self) -> str:
        page = self.request.path.rpartition("/")[2]
        query = f"?{self.request.query}" if self.request.query else ""
        return f"./login?{urlencode({'next': f'./{page}{query}'})}"

    def set_cookie(
        self,
        name: str,
        value: str | bytes,
        domain: str | None = None,
        expires: float | tuple[int, ...] | datetime | None = None,
        path: str = "/",
        expires_days: float | None = None,
        **options: Any,
    ) -> None:
        """As Tornado's; for this app alone, no script, no other site's request, and over TLS where a proxy speaks it."""
        forwarded = self.request.headers.get("X-Forwarded-Proto", self.request.protocol)
        kept: dict[str, Any] = {
            "httponly": True,
            "samesite": "Lax",
            "secure": "https" in (forwarded, self.request.protocol),
        }
        super().set_cookie(name, value, domain, expires, path, expires_days, **(kept | options))
