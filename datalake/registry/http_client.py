"""The parameter registry from afar: `ParameterRegistry`'s methods over HTTP, with the same errors.

For whoever has a token but no credentials for the bucket. Every change carries a fresh idempotency key, so a request
whose answer was lost is simply sent again: it is done once, as a retried append in process is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from datalake import errors
from datalake.canonical import canonical_json
from datalake.clock import System
from datalake.log.changes import Change, FieldChange, diff_specs
from datalake.names import check_alias, check_name, parse_ref
from datalake.registry.access import AccessError, RoleError
from datalake.registry.params import ParameterVersion

_API = "/api/v1"
_URN = "urn:morphogen:error:"
_ROUNDS = 5
_AGAIN = {502, 503, 504}  # the server, or the store behind it, may be back in a moment
_PAGE = 200


class ApiError(errors.DatalakeError):
    """The server refused for a reason that has no error of its own here. Attributes: ``status`` and ``problem``."""

    def __init__(self, message: str, *, status: int = 0, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.problem = dict(problem or {})


class SpecRejectedError(ApiError):
    """The server's generator refuses the spec: the message names field, value, and what is allowed."""


class RegistryClient:
    """A ``ParameterRegistry`` behind ``morphogen serve``. Safe across threads; close it, or use it in ``with``."""

    def __init__(
        self, url: str, token: str | None = None, *, system: System | None = None, timeout_s: float = 60.0
    ) -> None:
        """``url`` is the server's address, such as ``https://lab:8080``; ``token`` defaults to MORPHOGEN_TOKEN.

        Nothing is asked yet. Raises InvalidNameError if ``url`` is no http(s) address, or carries a password, and
        AccessError if the token holds what none does, such as the newline at the end of a file.
        """
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise errors.InvalidNameError(
                f"the server's address is no URL ({error}); write http(s)://host:port"
            ) from None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise errors.InvalidNameError("the server's address is not http(s)://host:port; a token goes in `token`")
        token = token or os.environ.get("MORPHOGEN_TOKEN")
        if token and not all("!" <= character <= "~" for character in token):
            raise AccessError(  # and the token is not repeated here
                "the token (MORPHOGEN_TOKEN, or `token`) holds a space, a line's end or something else that no token "
                "has; give what `morphogen tokens create` printed, and nothing else"
            )
        self._system = system or System()
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.url + _API,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=httpx.Timeout(timeout_s, connect=5.0),
        )

    def __enter__(self) -> RegistryClient:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"RegistryClient({self.url!r})"

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def put(
        self,
        name: str,
        spec: Mapping[str, Any],
        message: str = "",
        expect_version: int | None = None,
        force: bool = False,
    ) -> ParameterVersion:
        """Store ``spec`` as the next version of ``name``, as ``ParameterRegistry.put`` does; the server validates it.

        Raises Conflict with both versions, SpecRejectedError, AccessError or RoleError.
        """
        body = {"spec": dict(spec), "message": message, "force": force}
        return _version(self._change(f"/params/{check_name(name, 'parameter set')}", body, expect_version))

    def get(self, ref: str) -> ParameterVersion:
        """The version that ``NAME@V``, ``NAME@ALIAS`` or ``NAME`` (the latest) means. Raises NotFoundError."""
        name, selector = parse_ref(ref, "parameter set")
        path = f"/params/{name}" if selector is None else f"/params/{name}/versions/{selector}"
        return _version(self._json("GET", path))

    def list(self) -> list[ParameterVersion]:
        """The latest version of every parameter set, by name."""
        return [_version(item) for item in self._pages("/params")]

    def names(self, after: str = "") -> Iterator[str]:
        """Every name that sorts after ``after``, sorted."""
        return (version.name for version in self.list() if version.name > after)

    def digests(self, name: str) -> Sequence[str]:
        """The spec digest of every version of ``name``, oldest first. Raises NotFoundError."""
        return [version.digest for version in self.history(name)]

    def history(self, name: str) -> Sequence[ParameterVersion]:
        """Every version of ``name``, oldest first. Raises NotFoundError."""
        return [_version(item) for item in self._pages(f"/params/{check_name(name, 'parameter set')}/versions")]

    def aliases(self, name: str) -> dict[str, int]:
        """Where each alias of ``name`` points. Raises NotFoundError."""
        return self._json("GET", f"/params/{check_name(name, 'parameter set')}/aliases")["aliases"]

    def tag(self, name: str, alias: str, version: int, expect: int | None = None) -> ParameterVersion:
        """Move ``alias`` to ``version``; with ``expect``, only from that version (0: absent), else Conflict."""
        path = f"/params/{check_name(name, 'parameter set')}/aliases/{check_alias(alias)}"
        self._change(path, {"version": version}, expect)
        return self.get(f"{name}@{version}")

    def retire(self, name: str, version: int, message: str = "", *, force: bool = False) -> ParameterVersion:
        """Retire ``version`` of ``name``; ``force`` does so although something depends on it. Twice changes nothing.

        Raises NotFoundError, InUseError, AccessError or RoleError.
        """
        ref = f"{check_name(name, 'parameter set')}@{version}"
        asked = {"message": message, **({"force": ref} if force else {})}
        headers = {"Idempotency-Key": self._system.nonce()}
        path = f"/params/{name}/versions/{version}"
        return _version(self._json("DELETE", path, headers=headers, params=asked))

    def diff(self, old: str, new: str) -> Sequence[FieldChange]:
        """The fields in which the specs of two references differ, by path. Raises NotFoundError."""
        return diff_specs(self.get(old).spec, self.get(new).spec)

    def watch(
        self, name: str, after: int | None = None, interval: float = 2.0, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Change]:
        """New versions and moved aliases of ``name`` as they happen; see ``changes.watch``."""
        path = f"/params/{check_name(name, 'parameter set')}/changes"
        known = self._json("GET", path)["entry"] if after is None else after
        while not stop():
            while (found := self._json("GET", f"{path}?after={known}&limit={_PAGE}"))["entry"] > known:
                known = found["entry"]
                yield from (Change(**change) for change in found["items"])
            self._system.sleep(interval)

    def _change(self, path: str, body: Mapping[str, Any], expected: int | None) -> Any:
        headers = {"Idempotency-Key": self._system.nonce(), "Content-Type": "application/json"}
        if expected == 0:
            headers["If-None-Match"] = "*"
        elif expected is not None:
            headers["If-Match"] = f'"{expected}"'
        return self._json("PUT", path, headers=headers, content=canonical_json(dict(body)))

    def _pages(self, path: str) -> Iterator[Any]:
        cursor = ""
        while True:
            page = self._json("GET", f"{path}?limit={_PAGE}" + (f"&cursor={quote(cursor)}" if cursor else ""))
            yield from page["items"]
            if not (cursor := page["next"] or ""):
                return

    def _json(self, method: str, path: str, **request: Any) -> Any:
        for attempt in range(_ROUNDS):
            last = attempt == _ROUNDS - 1
            try:
                response = self._http.request(method, path, **request)
            except httpx.LocalProtocolError:  # never sent, and the reason may hold a header's secret
                raise ApiError(
                    f"a request to server {self.url} could not be put together: something in it cannot travel over "
                    "HTTP; mend what was asked for"
                ) from None
            except httpx.TransportError as error:  # reads are harmless to repeat, changes carry their key
                if last:
                    raise errors.StoreUnavailableError(
                        f"server {self.url} did not answer ({type(error).__name__}: {error}): check that "
                        f"`morphogen serve` runs there, then run again; a change in flight is then made once"
                    ) from error
            else:
                if response.status_code not in _AGAIN or last:
                    return self._answer(response)
            self._system.pause(attempt, base=0.2)
        raise AssertionError("unreachable: the last round returns or raises")

    def _answer(self, response: httpx.Response) -> Any:
        try:
            document = response.json()
        except ValueError:
            document = {}
        if response.is_success and document:
            return document
        raise self._error(response.status_code, document if isinstance(document, dict) else {})

    def _error(self, status: int, problem: Mapping[str, Any]) -> errors.DatalakeError:
        """The error that the lake raised on the server, by the name that the problem carries."""
        name = str(problem.get("type", "")).removeprefix(_URN)
        detail = str(problem.get("detail") or f"server {self.url} answered {status} without a problem document")
        kind = _NAMED.get(name)
        if kind is not None and issubclass(kind, errors.Conflict):
            return kind(detail, expected=int(problem.get("expected", 0)), found=int(problem.get("found", 0)))
        if kind is not None:
            return kind(detail)
        if name in ("SpecError", "BandError"):
            return SpecRejectedError(detail, status=status, problem=problem)
        return ApiError(detail, status=status, problem=problem)


def _version(document: Mapping[str, Any]) -> ParameterVersion:
    fields = {field: document[field] for field in ParameterVersion.__dataclass_fields__ if field != "retired"}
    return ParameterVersion(**fields, retired=document.get("retired", False))


_NAMED: dict[str, type[errors.DatalakeError]] = {
    **{
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.DatalakeError)
    },
    "AccessError": AccessError,
    "RoleError": RoleError,
    "PreconditionFailedError": errors.Conflict,
}
