"""The one error that a request can end with; each protocol gives it its own body."""


class ApiError(Exception):
    """What a client is told.

    Args:
        status: of HTTP. Clients send a request again after 408, 409, 429 and 5xx: what would fail
            again has another one.
        code: a word for programs: "invalid_value", "unknown_parameter", "invalid_image",
            "url_not_allowed", "context_length_exceeded", "invalid_api_key", "model_not_found",
            "body_too_large", "queue_full", "unavailable", "internal_error" ...
        message: for people: what was found, what was expected, and the next step.
        param: the field it is about, as `messages[0].content[1].image_url`.
        retry_after: seconds, for 429 and 503.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: int | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after

    @property
    def type(self) -> str:
        """OpenAI's coarse kinds of errors."""
        kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
        kinds |= {429: "rate_limit_error"}
        return kinds.get(self.status, "server_error" if self.status >= 500 else _INVALID)

    def body(self) -> dict[str, dict[str, str | None]]:
        """As OpenAI writes it."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }


_INVALID = "invalid_request_error"
