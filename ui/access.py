"""Who may see the app: this machine alone, or people with a password, or people whom an OAuth provider knows.

Panel's own means do it (`pn.config.oauth_provider` and its variables in the environment); a login page that loads nothing from
another host, a password compared in constant time and few attempts a minute are added.
"""

import hmac
import ipaddress
import os
import secrets
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import panel as pn
from panel.auth import (
    AUTH_PROVIDERS,
    BasicAuthProvider,
    BasicLoginHandler,
    LogoutHandler,
    OAuthProvider,
    _validate_next_url,
)
from tornado.web import HTTPError, RequestHandler

from ..errors import InvalidOption
from .modules import STATIC
from .page import THEME_CSS, css

ATTEMPTS, ATTEMPTS_SECONDS = 5, 60.0
"""Wrong passwords that are heard from one address in so many seconds."""

LEAST_PASSWORD = 8


@dataclass(frozen=True)
class Access:
    """How people come in. `allowed_users` are names or mail addresses, `@example.org` for all of a domain, `*` for all that the
    provider knows; `origins` are hosts by which a proxy is reached, as `app.example.org`."""

    password: str | None = None
    oauth_provider: str | None = None
    allowed_users: Sequence[str] = ()
    origins: Sequence[str] = ()
    insecure: bool = False

    def check(self, address: str) -> None:
        """Raises InvalidOption where other machines would be let in without a word, or nobody could come in."""
        if self.password is not None and len(self.password) < LEAST_PASSWORD:
            raise InvalidOption("password", "…", f"give {LEAST_PASSWORD} characters or more")
        if self.password is not None and self.oauth_provider:
            raise InvalidOption("oauth_provider", self.oauth_provider, "choose it or a password")
        if self.oauth_provider:
            if self.oauth_provider not in AUTH_PROVIDERS:
                raise InvalidOption("oauth_provider", self.oauth_provider, f"choose one of {', '.join(AUTH_PROVIDERS)}")
            if not self.allowed_users:
                wanted = "say who may come in, with --allow-user (a name, a mail address, @example.org, or '*' for all)"
                raise InvalidOption("oauth_provider", self.oauth_provider, wanted)
            if missing := [name for name in ("PANEL_OAUTH_KEY", "PANEL_OAUTH_SECRET") if not os.environ.get(name)]:
                raise InvalidOption("oauth_provider", self.oauth_provider, f"set {' and '.join(missing)}")
        if not (is_loopback(address) or self.password is not None or self.oauth_provider or self.insecure):
            wanted = (
                "other machines could reach it, and nobody would be asked who they are; give --password-file or "
                "--oauth-provider (docs/app.md), or --insecure where the network itself is trusted"
            )
            raise InvalidOption("address", address, wanted)

    def options(self) -> dict[str, Any]:
        """What Panel's server is given."""
        if self.password is None and not self.oauth_provider:
            return {}
        given: dict[str, Any] = {"cookie_secret": os.environ.get("PANEL_COOKIE_SECRET") or secrets.token_urlsafe(32)}
        if self.oauth_provider:
            pn.config.param.update(oauth_provider=self.oauth_provider)
            return given | {"auth_provider": _OAuth(self.allowed_users)}
        return given | {"auth_provider": _Password(str(self.password))}


def password_from(path: str | os.PathLike[str] | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """The first line of a file, or ACTLAKE_PASSWORD, or None. Raises InvalidOption for a file without one."""
    if path is None:
        return environment.get("ACTLAKE_PASSWORD") or None
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidOption("password_file", os.fspath(path), f"it cannot be read: {error}") from error
    if not lines or not lines[0]:
        raise InvalidOption("password_file", os.fspath(path), "its first line is the password, and it is empty")
    return lines[0]


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches an address.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


class Attempts:
    """Wrong passwords of late, by who gave them."""

    def __init__(self) -> None:
        self._times: dict[str, deque[float]] = {}

    def are_too_many(self, who: str) -> bool:
        return len(self._recent(who)) >= ATTEMPTS

    def add(self, who: str) -> None:
        self._recent(who).append(time.monotonic())

    def _recent(self, who: str) -> deque[float]:
        oldest = time.monotonic() - ATTEMPTS_SECONDS
        for name in [name for name, times in self._times.items() if times and times[-1] < oldest]:
            del self._times[name]
        times = self._times.setdefault(who, deque(maxlen=ATTEMPTS))
        while times and times[0] < oldest:
            times.popleft()
        return times


class _Password(BasicAuthProvider):
    """One password for all who come in."""

    def __init__(self, password: str) -> None:
        self._handler = type("Login", (_Login,), {"password": password, "attempts": Attempts()})
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def login_handler(self) -> type[RequestHandler]:
        return self._handler

    @property
    def logout_handler(self) -> type[RequestHandler]:
        return _Logout


class _Login(BasicLoginHandler):
    password: str
    attempts: Attempts

    def get(self) -> None:
        if following := _validate_next_url(self.get_argument("next", None)):
            self.set_cookie("next_url", following, httponly=True, samesite="Lax")
        self._ask("")

    def post(self) -> None:
        who = str(self.request.remote_ip)
        if self.attempts.are_too_many(who):
            self.set_status(429)
            self._ask("Too many attempts; wait a minute.")
        elif hmac.compare_digest(self.get_argument("password", "").encode(), self.password.encode()):
            self.set_secure_cookie("user", "user", expires_days=1, httponly=True, samesite="Lax")
            self.redirect(_validate_next_url(self.get_cookie("next_url")) or "./")
        else:
            self.attempts.add(who)
            self.set_status(403)
            self._ask("That is not the password.")

    def _ask(self, problem: str) -> None:
        self.set_header("Cache-Control", "no-store")
        said = f'<p class="problem" role="alert">{problem}</p>' if problem else ""
        self.write(css(STATIC / "login.html").replace("/* theme */", css(THEME_CSS)).replace("<!-- problem -->", said))


class _Logout(LogoutHandler):
    def get(self) -> None:
        for cookie in ("user", "id_token", "next_url"):
            self.clear_cookie(cookie)
        self.redirect("./login")


class _OAuth(OAuthProvider):
    """Those of a provider's people who are allowed; the others are told so, on every route."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = tuple(allowed)
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def get_user_async(self) -> Any:
        known = super().get_user_async

        async def get_user(handler: RequestHandler) -> str | None:
            user: str | None = await known(handler)
            if user is not None and not is_allowed(user, self._allowed):
                raise HTTPError(403, "%r may not come in here", user, reason="This account may not come in here")
            return user

        return get_user

    @property
    def logout_handler(self) -> type[RequestHandler]:
        return _Logout


def is_allowed(user: str, allowed: Sequence[str]) -> bool:
    """Whether a name or a mail address is one of these.

    >>> is_allowed("ann@example.org", ["@example.org"]), is_allowed("ann@example.org.evil", ["@example.org"])
    (True, False)
    """
    name = user.casefold()
    return any(
        one == "*" or name == one.casefold() or (one.startswith("@") and name.endswith(one.casefold()))
        for one in allowed
    )
