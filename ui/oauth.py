"""Sign-in by an OAuth provider: Panel's own handlers, with what they leave open closed, and one clear page where it fails.

Panel asks the provider and keeps what it says in signed cookies. Added here: the provider's answer comes to `/login`, not to a
page; it counts only in the browser that asked; who is not allowed is told so and gets no cookie; logging out forgets all.
"""

import logging
from collections.abc import Mapping, Sequence
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qs

import panel as pn
from markupsafe import Markup
from panel.auth import (
    AUTH_PROVIDERS,
    CODE_COOKIE_NAME,
    STATE_COOKIE_NAME,
    OAuthLoginHandler,
    OAuthProvider,
    PasswordLoginHandler,
)
from tornado.web import HTTPError, RequestHandler

from .guarded import Guarded
from .modules import STATIC
from .page import THEME_CSS, css

PROVIDERS = tuple(
    name
    for name, handler in AUTH_PROVIDERS.items()
    if issubclass(handler, OAuthLoginHandler) and not issubclass(handler, PasswordLoginHandler)
)
"""Panel's providers that people sign in at; those that take a password here have no place beside our own password."""

COOKIES = (
    "user",
    "id_token",
    "access_token",
    "refresh_token",
    "oauth_expiry",
    "is_guest",
    "next_url",
    STATE_COOKIE_NAME,
    CODE_COOKIE_NAME,
)

NOT_BEGUN = "This sign-in was not begun in this browser, or it took too long. Begin again."
ERRORS = (
    "access_denied",
    "invalid_request",
    "invalid_scope",
    "login_required",
    "temporarily_unavailable",
    "unauthorized_client",
)
"""Of what a provider may answer, the codes that tell a person something (RFC 6749, OpenID Connect Core)."""
TOKEN_ERRORS = ("invalid_client", "invalid_grant", "unsupported_grant_type", *ERRORS)
HIDDEN = {"code", "state", "error", "error_description"}
"""What a provider answers with, and the address that people come back to may not have."""


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


class OAuth(OAuthProvider):
    """Those of a provider's people who are allowed; the others are asked to sign in, on every route."""

    def __init__(self, provider: str, allowed: Sequence[str]) -> None:
        self._allowed = tuple(allowed)
        bases = (_OAuthLogin, AUTH_PROVIDERS[provider])
        self._handler = type("OAuthLogin", bases, {"allowed": self._allowed, "_login_endpoint": "/login"})
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def get_user_async(self) -> Any:
        known = super().get_user_async

        async def get_user(handler: RequestHandler) -> str | None:
            user: str | None = await known(handler)
            return user if user is not None and is_allowed(user, self._allowed) else None

        return get_user

    @property
    def login_handler(self) -> type[RequestHandler]:
        return self._handler

    @property
    def logout_handler(self) -> type[RequestHandler]:
        return SignedOut


class _OAuthLogin(Guarded):
    """Before one of Panel's handlers: what of the provider's answer, and for whom, is taken."""

    allowed: tuple[str, ...] = ()

    @property
    def _redirect_uri(self) -> str:
        """Where the provider sends people back to; behind a proxy it must be told."""
        if pn.config.oauth_redirect_uri:
            return str(pn.config.oauth_redirect_uri)
        return f"{self.request.protocol}://{self.request.host}/login"

    async def get(self) -> None:
        if error := self.get_argument("error", ""):
            said = f" ({error})" if error in ERRORS else ""  # anybody can write a link with words of their own
            raise _Refused(403, f"The provider refused the sign-in{said}.")
        if HIDDEN & {name.rpartition("?")[2] for name in parse_qs(self.get_argument("next", ""))}:
            raise _Refused(400, NOT_BEGUN)  # Panel would take them for the provider's answer
        answered, state = self.get_argument("code", ""), self.get_argument("state", "")
        if answered and not (state and self.get_secure_cookie(STATE_COOKIE_NAME)):
            raise _Refused(401, NOT_BEGUN)
        await super().get()  # type: ignore[misc]  # of Panel's handler, which comes after this class

    async def get_authenticated_user(self, *args: Any, **kwargs: Any) -> str | None:
        user: str | None = await super().get_authenticated_user(*args, **kwargs)  # type: ignore[misc]
        if user is not None and not is_allowed(user, self.allowed):
            raise _Refused(403, f"{user} may not come in here.")
        return user

    def _raise_error(self, response: Any, body: Any = None, status: int = 400) -> None:
        """In place of Panel's, which writes the whole answer, tokens and all, into the log."""
        code = body.get("error") if isinstance(body, Mapping) else None
        said = code if isinstance(code, str) and code in TOKEN_ERRORS else "no error code"
        logging.getLogger(__name__).error("the provider gave no token or no name: HTTP %s, %s", response.code, said)
        raise HTTPError(status, "the provider gave no token or no name")

    def _request_summary(self) -> str:
        """What the log says of a request: not the query, in which codes are."""
        return f"{self.request.method} {self.request.path} ({self.request.remote_ip})"

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs["exc_info"][1]
        if not isinstance(error, HTTPError):
            logging.getLogger(__name__).error("a sign-in failed", exc_info=error)
        self._new_cookie = SimpleCookie()  # those of this answer were for somebody who may not come in
        forget(self)
        self.finish(sign_in_page(_sentence(error)))


class _Refused(HTTPError):
    """Why somebody is not let in, in words for them."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(status)
        self.sentence = sentence


class SignedOut(Guarded):
    """Forgets who was here, and says so: leading straight back to the provider would sign them in again."""

    def get(self) -> None:
        forget(self)
        self.finish(sign_in_page("You are signed out."))


def forget(handler: RequestHandler) -> None:
    """Has a browser forget all that says who is there."""
    for name in COOKIES:
        handler.clear_cookie(name, path="/")


def sign_in_page(sentence: str) -> str:
    """A page of one sentence and a way to sign in."""
    said = Markup("{}").format(sentence)
    return css(STATIC / "signin.html").replace("/* theme */", css(THEME_CSS)).replace("<!-- sentence -->", said)


def _sentence(error: BaseException) -> str:
    """What is said of a failure; of the app's own and the provider's the log says more."""
    if isinstance(error, _Refused):
        return error.sentence
    if isinstance(error, HTTPError) and "mismatch" in (error.log_message or ""):
        return NOT_BEGUN
    return "The sign-in could not be finished; the log of `actlake serve` says why."
